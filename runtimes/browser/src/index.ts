import { chooseBridge } from "./bridge.js";
import type { Report } from "./guest.js";
import { runOn, type Ended, type Platform, type RunOptions } from "./running.js";

export type { Accelerator } from "./accelerators.js";
export type { Bridge } from "./bridge.js";
export type { Limits } from "./limits.js";
export type { Ended, RunOptions } from "./running.js";
export type { Model } from "./session.js";

const page: Platform = {
  bridge: chooseBridge,
  folder: (asked) => new URL(asked, document.baseURI).href,
  channel() {
    const { port1, port2 } = new MessageChannel();
    return [port1, port2];
  },
  start(kind, message, port, onReport, onError) {
    // (Bundlers look for these expressions.)
    const worker = kind === "guest"
      ? new Worker(new URL("./worker.js", import.meta.url), { type: "module" })
      : new Worker(new URL("./engines-worker.js", import.meta.url), { type: "module" });
    worker.onerror = (event) => onError(new Error(event.message || "a worker did not load"));
    worker.onmessage = ({ data }: MessageEvent<Report>) => onReport(data);
    worker.postMessage(message, port === undefined ? [] : [port as MessagePort]);
    return worker;
  },
};

/** Runs a guest in a worker. Rejects if the guest traps, misses its deadline or is aborted, and if the page can
 * have no bridge. The workers are ended in any case. */
export function runGuest(options: RunOptions): Promise<Ended> {
  return runOn(page, options);
}
