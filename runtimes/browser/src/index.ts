import type { Model } from "./host.js";

export type { Model } from "./host.js";

export interface Order {
  /** The guest: a core module with WASI preview 1 and `wasi_ephemeral_nn`. */
  module: Uint8Array<ArrayBuffer>;
  args: string[];
  /** The files of the guest's folder, by name. */
  files: Record<string, Uint8Array<ArrayBuffer>>;
  /** What `load_by_name` finds. */
  models: Record<string, Model>;
  /** The numbers that the guest was compiled against. */
  dialect: string;
}

export interface RunOptions extends Partial<Omit<Order, "module">>, Pick<Order, "module"> {
  onStdout?: (text: string) => void;
  onStderr?: (text: string) => void;
  /** Why a call of wasi-nn failed. */
  onLog?: (text: string) => void;
  signal?: AbortSignal;
  /** The guest ends after `deadline` milliseconds. */
  limits?: { deadline?: number };
}

/** Runs a guest in a worker and gives its exit code. Rejects if the guest traps, misses its deadline
 * or is aborted. The worker is ended in any case. */
export function runGuest(options: RunOptions): Promise<{ exitCode: number }> {
  const { module, args = ["guest"], files = {}, models = {}, dialect = "witx", signal, limits } = options;
  if (!("Suspending" in WebAssembly))
    return Promise.reject(new Error("this browser has no JSPI (WebAssembly.Suspending), which this package needs"));
  if (signal?.aborted) return Promise.reject(signal.reason);
  return new Promise<{ exitCode: number }>((resolve, reject) => {
    const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    const end = (settle: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      worker.terminate();
      settle();
    };
    const abort = () => end(() => reject(signal!.reason));
    signal?.addEventListener("abort", abort);
    const deadline = limits?.deadline;
    const timer = deadline === undefined ? undefined
      : setTimeout(() => end(() => reject(new Error(`the guest did not end within ${deadline} ms`))), deadline);
    worker.onerror = (event) => end(() => reject(new Error(event.message || "the worker did not load")));
    worker.onmessage = ({ data }) => {
      if (data.kind === "stdout") options.onStdout?.(data.text);
      else if (data.kind === "stderr") options.onStderr?.(data.text);
      else if (data.kind === "log") options.onLog?.(data.text);
      else if (data.kind === "exit") end(() => resolve({ exitCode: data.code }));
      else end(() => reject(new Error(data.text)));
    };
    const order: Order = { module, args, files, models, dialect };
    worker.postMessage(order);
  });
}
