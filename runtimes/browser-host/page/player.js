// The worker of a guest on the playground. It measures what the engines take for each call.
import { runHere } from "wasi-nn-browser/guest.js";
import { Service, then } from "wasi-nn-browser/service.js";
import { ENGINES } from "./engines.js";

const measured = (service) => new Proxy(service, {
  get: (_, name) => (...args) => {
    const begun = performance.now();
    return then(service[name](...args), (value) => {
      self.postMessage({ kind: "call", name, ms: performance.now() - begun });
      return value;
    });
  },
});

self.onmessage = async ({ data: order }) => {
  const report = (message) => self.postMessage(message);
  try {
    report({ kind: "exit", code: await runHere(order, measured(new Service(ENGINES)), report) });
  } catch (error) {
    report({ kind: "error", text: error instanceof Error ? error.message : String(error) });
  }
};
