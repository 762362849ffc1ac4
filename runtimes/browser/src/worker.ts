import { ConsoleStdout, Directory, File, OpenFile, PreopenDirectory, WASI, WASIProcExit } from "@bjorn3/browser_wasi_shim";
import { Host } from "./host.js";
import { Memory } from "./memory.js";
import { onnx } from "./onnx.js";
import type { Order } from "./index.js";

// JSPI: TypeScript's own declarations do not have it yet.
const { Suspending, promising } = WebAssembly as unknown as {
  Suspending: new (call: unknown) => WebAssembly.ImportValue;
  promising: (call: unknown) => () => Promise<void>;
};

async function run({ module, args, files, models, dialect }: Order): Promise<number> {
  const output = (kind: "stdout" | "stderr") => {
    const decoder = new TextDecoder();
    return new ConsoleStdout((bytes) => self.postMessage({ kind, text: decoder.decode(bytes, { stream: true }) }));
  };
  const contents = new Map(Object.entries(files).map(([name, bytes]) => [name, new File(bytes)] as const));
  const fds = [new OpenFile(new File([])), output("stdout"), output("stderr"), new PreopenDirectory(".", contents as Directory["contents"])];
  const wasi = new WASI(args, [], fds, { debug: false });
  const host = new Host(dialect, { onnx }, models, (text) => self.postMessage({ kind: "log", text }));
  const calls = Object.entries(host.functions()).map(([name, call]) => [name, new Suspending(call)] as const);
  const instance = (await WebAssembly.instantiate(await WebAssembly.compile(module), {
    wasi_snapshot_preview1: wasi.wasiImport as WebAssembly.ModuleImports,
    wasi_ephemeral_nn: Object.fromEntries(calls),
  })) as WebAssembly.Instance & { exports: { memory: WebAssembly.Memory; _start: () => void } };
  wasi.inst = instance;
  host.memory = new Memory(instance.exports.memory);
  try {
    // WASI.start cannot be used: it calls _start without promising.
    await promising(instance.exports._start)();
    return 0;
  } catch (error) {
    if (error instanceof WASIProcExit) return error.code;
    throw error;
  }
}

self.onmessage = async ({ data }: MessageEvent<Order>) => {
  try {
    self.postMessage({ kind: "exit", code: await run(data) });
  } catch (error) {
    self.postMessage({ kind: "error", text: String(error) });
  }
};
