import type { Accelerator } from "./accelerators.js";
import { chooseBridge, type Bridge } from "./bridge.js";
import type { Call } from "./calls.js";
import type { Report } from "./guest.js";
import { limitsOver, type Limits } from "./limits.js";
import type { Model } from "./session.js";

export type { Accelerator } from "./accelerators.js";
export type { Bridge } from "./bridge.js";
export type { Limits } from "./limits.js";
export type { Model } from "./session.js";

export interface Order {
  /** The guest: a core module with WASI preview 1 and `wasi_ephemeral_nn`. */
  module: Uint8Array<ArrayBuffer>;
  args: string[];
  env: Record<string, string>;
  stdin: Uint8Array<ArrayBuffer>;
  /** The files of the guest's folder, by name. */
  files: Record<string, Uint8Array<ArrayBuffer>>;
  /** What `load_by_name` finds. */
  models: Record<string, Model>;
  /** The numbers that the guest was compiled against: `auto`, unless told, detects them. */
  dialect: string;
  /** The URL of the folder with the engines' files: those that LiteRT.js and wllama load by themselves. */
  folder: string;
  bridge: Bridge;
  limits: Limits;
  /** What computes all models. Unless told, the execution target says it: `cpu` and `auto` are the CPU, `gpu` is
   * WebGPU, `tpu` is WebNN. One that the browser does not have fails the load. */
  accelerator: Accelerator | undefined;
  /** Whether each call of an engine is reported. */
  measure: boolean;
}

export interface RunOptions extends Partial<Omit<Order, "module" | "bridge" | "limits" | "measure">>, Pick<Order, "module"> {
  /** `auto`, unless told: `jspi` where the browser has it, and otherwise `sab`. */
  bridge?: Bridge | "auto";
  onStdout?: (text: string) => void;
  onStderr?: (text: string) => void;
  /** Why a call of wasi-nn failed. */
  onLog?: (text: string) => void;
  /** A call of an engine, and the bytes of the guest's memory then. */
  onCall?: (call: Call & { memory: number }) => void;
  signal?: AbortSignal;
  limits?: Partial<Limits>;
}

/** Runs a guest in a worker and gives its exit code, the bridge that it had, and the bytes of its memory. Rejects if the guest
 * traps, misses its deadline or is aborted, and if the page can have no bridge. The workers are ended
 * in any case. */
export async function runGuest(options: RunOptions): Promise<{ exitCode: number; bridge: Bridge; memory: number }> {
  const { module, args = ["guest"], env = {}, stdin = new Uint8Array(), files = {}, models = {}, dialect = "auto", accelerator, signal } = options;
  const folder = new URL(options.folder ?? "./", document.baseURI).href;
  const limits = limitsOver(options.limits ?? {});
  const bridge = chooseBridge(options.bridge ?? "auto");
  signal?.throwIfAborted();
  const order: Order = { module, args, env, stdin, files, models, dialect, folder, bridge, limits, accelerator, measure: options.onCall !== undefined };
  const workers: Worker[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  let abort = () => {};
  try {
    const ended = await new Promise<{ code: number; memory: number }>((resolve, reject) => {
      const start = (worker: Worker, message: unknown, ...ports: MessagePort[]) => {
        workers.push(worker);
        worker.onerror = (event) => reject(new Error(event.message || "a worker did not load"));
        worker.postMessage(message, ports);
        return worker;
      };
      abort = () => reject(signal!.reason);
      signal?.addEventListener("abort", abort);
      const { deadline } = limits;
      if (deadline !== null)
        timer = setTimeout(() => reject(new Error(`the guest did not end within ${deadline} ms`)), deadline);
      let port: MessagePort | undefined;
      if (bridge === "sab") {
        const { port1, port2 } = new MessageChannel();
        port = port1;
        start(new Worker(new URL("./engines-worker.js", import.meta.url), { type: "module" }), { port: port2, folder, accelerator }, port2);
      }
      const guest = start(new Worker(new URL("./worker.js", import.meta.url), { type: "module" }), { order, port }, ...(port ? [port] : []));
      guest.onmessage = ({ data }: MessageEvent<Report>) => {
        if (data.kind === "stdout") options.onStdout?.(data.text);
        else if (data.kind === "stderr") options.onStderr?.(data.text);
        else if (data.kind === "log") options.onLog?.(data.text);
        else if (data.kind === "call") options.onCall?.(data);
        else if (data.kind === "exit") resolve(data);
        else reject(new Error(data.text));
      };
    });
    return { exitCode: ended.code, bridge, memory: ended.memory };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
    for (const worker of workers) worker.terminate();
  }
}
