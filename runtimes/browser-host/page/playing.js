// One run on the playground.
import { runGuest } from "wasi-nn-browser";
import { chooseBridge } from "wasi-nn-browser/bridge.js";
import { limitsOver } from "wasi-nn-browser/limits.js";

/** Runs a guest: {exitCode, bridge}. `onReport` gets what its worker says. Where the guest cannot be
 * suspended, the package runs it with two workers, and its calls are not measured. */
export async function play({ module, args, files, models, bridge: asked, deadline, signal, onReport }) {
  const bridge = chooseBridge(asked);
  if (bridge === "sab") {
    const report = (kind) => (text) => onReport({ kind, text });
    return runGuest({ module, args, files, models, bridge, signal, limits: { deadline },
      onStdout: report("stdout"), onStderr: report("stderr"), onLog: report("log") });
  }
  signal.throwIfAborted();
  const worker = new Worker(new URL("player.js", import.meta.url), { type: "module" });
  let timer;
  try {
    const exitCode = await new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      timer = setTimeout(() => reject(new Error(`the guest did not end within ${deadline / 1000} s`)), deadline);
      worker.onerror = (event) => reject(new Error(event.message || "the worker did not load"));
      worker.onmessage = ({ data }) => {
        if (data.kind === "exit") resolve(data.code);
        else if (data.kind === "error") reject(new Error(data.text));
        else onReport(data);
      };
      worker.postMessage({ module, args, env: {}, stdin: new Uint8Array(), files, models, dialect: "auto", bridge, limits: limitsOver({}) });
    });
    return { exitCode, bridge };
  } finally {
    clearTimeout(timer);
    worker.terminate();
  }
}
