import { ConsoleStdout, Directory, File, OpenFile, PreopenDirectory, WASI, WASIProcExit } from "@bjorn3/browser_wasi_shim";
import { Host } from "./host.js";
import type { Order } from "./index.js";
import { Memory } from "./memory.js";
import type { Later, Remote } from "./service.js";

/** What a guest's worker tells the page. */
export type Report =
  | { kind: "stdout" | "stderr" | "log" | "error"; text: string }
  | { kind: "exit"; code: number };

// JSPI: TypeScript's own declarations do not have it yet.
interface Jspi {
  Suspending: new (call: unknown) => WebAssembly.ImportValue;
  promising: (call: () => void) => () => Promise<void>;
}

/** Runs a guest, and gives its exit code. A service that answers with promises needs JSPI. */
export async function runHere(order: Order, service: Remote, report: (report: Report) => void): Promise<number> {
  const { module, args, files, models, dialect, bridge } = order;
  const output = (kind: "stdout" | "stderr") => {
    const decoder = new TextDecoder();
    return new ConsoleStdout((bytes) => report({ kind, text: decoder.decode(bytes, { stream: true }) }));
  };
  const contents = new Map(Object.entries(files).map(([name, bytes]) => [name, new File(bytes)] as const));
  const fds = [new OpenFile(new File([])), output("stdout"), output("stderr"), new PreopenDirectory(".", contents as Directory["contents"])];
  const wasi = new WASI(args, [], fds, { debug: false });
  const host = new Host(dialect, service, models, (text) => report({ kind: "log", text }));
  const jspi = WebAssembly as unknown as Jspi;
  const imported = (call: (...args: number[]) => Later<number>) =>
    bridge === "jspi" ? new jspi.Suspending(call) : call as WebAssembly.ImportValue;
  const compiled = await WebAssembly.compile(module).catch((error: unknown) => {
    throw new Error(`the guest is not a WebAssembly module: ${error instanceof Error ? error.message : String(error)}`);
  });
  const instance = await WebAssembly.instantiate(compiled, {
    wasi_snapshot_preview1: wasi.wasiImport as WebAssembly.ModuleImports,
    wasi_ephemeral_nn: Object.fromEntries(Object.entries(host.functions()).map(([name, call]) => [name, imported(call)])),
  });
  const { memory, _start } = instance.exports;
  if (typeof _start !== "function") throw new Error("the guest is not a command: it exports no _start");
  wasi.inst = instance as WASI["inst"];
  if (memory instanceof WebAssembly.Memory) host.memory = new Memory(memory);
  try {
    // WASI.start cannot be used: it calls _start without promising.
    if (bridge === "jspi") await jspi.promising(_start as () => void)();
    else _start();
    return 0;
  } catch (error) {
    if (error instanceof WASIProcExit) return error.code;
    throw error;
  }
}
