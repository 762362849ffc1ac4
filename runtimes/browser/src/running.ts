import type { Accelerator } from "./accelerators.js";
import type { Bridge } from "./bridge.js";
import type { Call } from "./calls.js";
import type { Report } from "./guest.js";
import { limitsOver, type Limits } from "./limits.js";
import type { Model } from "./session.js";

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

/** How a guest ended: its exit code, the bridge that it had, and the bytes of its memory. */
export interface Ended {
  exitCode: number;
  bridge: Bridge;
  memory: number;
}

/** A worker of either platform. */
export interface Started {
  terminate(): unknown;
}

/** What a page and Node do in their own ways. */
export interface Platform {
  bridge(asked: Bridge | "auto"): Bridge;
  /** The URL of the engines' files, from the one that is asked for. */
  folder(asked: string): string;
  /** Two ends of a channel. */
  channel(): [unknown, unknown];
  /** Starts a worker with a message, which has the port. */
  start(kind: "guest" | "engines", message: object, port: unknown, onReport: (report: Report) => void, onError: (error: Error) => void): Started;
}

/** Runs a guest in workers of a platform. */
export async function runOn(platform: Platform, options: RunOptions): Promise<Ended> {
  const { module, args = ["guest"], env = {}, stdin = new Uint8Array(), files = {}, models = {}, dialect = "auto", accelerator, signal } = options;
  const folder = platform.folder(options.folder ?? "./");
  const limits = limitsOver(options.limits ?? {});
  const bridge = platform.bridge(options.bridge ?? "auto");
  signal?.throwIfAborted();
  const order: Order = { module, args, env, stdin, files, models, dialect, folder, bridge, limits, accelerator, measure: options.onCall !== undefined };
  const workers: Started[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  let abort = () => {};
  try {
    const ended = await new Promise<{ code: number; memory: number }>((resolve, reject) => {
      abort = () => reject(signal!.reason);
      signal?.addEventListener("abort", abort);
      const { deadline } = limits;
      if (deadline !== null)
        timer = setTimeout(() => reject(new Error(`the guest did not end within ${deadline} ms`)), deadline);
      let port: unknown;
      if (bridge === "sab") {
        const [own, other] = platform.channel();
        port = own;
        workers.push(platform.start("engines", { port: other, folder, accelerator }, other, () => {}, reject));
      }
      workers.push(platform.start("guest", { order, port }, port, (data) => {
        if (data.kind === "stdout") options.onStdout?.(data.text);
        else if (data.kind === "stderr") options.onStderr?.(data.text);
        else if (data.kind === "log") options.onLog?.(data.text);
        else if (data.kind === "call") options.onCall?.(data);
        else if (data.kind === "exit") resolve(data);
        else reject(new Error(data.text));
      }, reject));
    });
    return { exitCode: ended.code, bridge, memory: ended.memory };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
    for (const worker of workers) worker.terminate();
  }
}
