// The same host in Node. Its engine is onnxruntime-node where that is installed, and otherwise onnxruntime-web.
import { MessageChannel, Worker, type Transferable } from "node:worker_threads";
import type { Bridge } from "./bridge.js";
import { runOn, type Ended, type Platform, type RunOptions } from "./running.js";

export type { Accelerator } from "./accelerators.js";
export type { Bridge } from "./bridge.js";
export type { Limits } from "./limits.js";
export type { Ended, RunOptions } from "./running.js";
export type { Model } from "./session.js";

const node: Platform = {
  bridge(asked): Bridge {
    const jspi = "Suspending" in WebAssembly;
    if (asked === "jspi" && !jspi) throw new Error(`Node ${process.version} has no JSPI (WebAssembly.Suspending): use the bridge sab, or a newer Node`);
    return asked === "auto" ? (jspi ? "jspi" : "sab") : asked;
  },
  folder: (asked) => asked,
  channel() {
    const { port1, port2 } = new MessageChannel();
    return [port1, port2];
  },
  start(kind, message, port, onReport, onError) {
    const worker = new Worker(new URL("./node-worker.js", import.meta.url), { workerData: kind });
    worker.on("error", onError);
    worker.on("message", onReport);
    worker.postMessage(message, port === undefined ? [] : [port as Transferable]);
    return worker;
  },
};

/** Runs a guest in a worker thread. Rejects if the guest traps, misses its deadline or is aborted. The threads
 * are ended in any case. */
export function runGuest(options: RunOptions): Promise<Ended> {
  return runOn(node, options);
}
