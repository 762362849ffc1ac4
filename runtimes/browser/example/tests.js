// What the tests and the figures call, on a page of its own.
import { runGuest } from "wasi-nn-browser";

const fetched = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());

/** Runs a guest. `module`, and the `data` of models, are URLs. */
globalThis.run = async ({ module, models = {}, stdin = "", ...options }) => {
  let [out, log] = ["", ""];
  const loaded = {};
  for (const [name, model] of Object.entries(models)) loaded[name] = { ...model, data: await fetched(model.data) };
  const ended = await runGuest({
    folder: "engines/", ...options, module: await fetched(module), models: loaded, stdin: new TextEncoder().encode(stdin),
    onStdout: (text) => { out += text; }, onStderr: (text) => { log += text; }, onLog: (text) => { log += `${text}\n`; },
  });
  return { ...ended, out, log };
};
