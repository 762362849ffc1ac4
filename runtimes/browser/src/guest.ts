import { ConsoleStdout, Directory, File, OpenFile, PreopenDirectory, WASI, WASIProcExit } from "@bjorn3/browser_wasi_shim";
import { AT_ONCE } from "./abi.js";
import { measured, type Call } from "./calls.js";
import { detectDialect } from "./detection.js";
import { Memory } from "./memory.js";
import { Negotiation } from "./negotiation.js";
import type { Order } from "./running.js";
import type { Remote } from "./service.js";
import { Session } from "./session.js";
import { DIALECTS, type Dialect } from "./tables.js";
import { WamrLegacy } from "./wamr-legacy.js";
import { limitMemory } from "./wasm.js";
import { Witx } from "./witx.js";

/** What a guest's worker tells the page. */
export type Report =
  | { kind: "stdout" | "stderr" | "log" | "error"; text: string }
  | ({ kind: "call"; memory: number } & Call)
  | { kind: "exit"; code: number; memory: number };

// JSPI: TypeScript's own declarations do not have it yet.
const jspi = WebAssembly as unknown as {
  Suspending: new (call: unknown) => WebAssembly.ImportValue;
  promising: (call: () => void) => () => Promise<void>;
};

/** Runs a guest, and gives its exit code and the bytes of its memory. A service that answers with promises needs JSPI. */
export async function runHere(order: Order, service: Remote, report: (report: Report) => void): Promise<{ code: number; memory: number }> {
  const { args, env, stdin, files, bridge, limits } = order;
  const log = (text: string) => report({ kind: "log", text });
  const output = (kind: "stdout" | "stderr") => {
    const decoder = new TextDecoder();
    let room = limits.output ?? Infinity;
    return new ConsoleStdout((bytes) => {
      if (bytes.length > room && room >= 0) log(`quota output: the guest's ${kind} is cut at ${limits.output} bytes`);
      const text = decoder.decode(bytes.subarray(0, Math.max(0, room)), { stream: true });
      room = bytes.length > room ? -1 : room - bytes.length;
      if (text !== "") report({ kind, text });
    });
  };
  const contents = new Map(Object.entries(files).map(([name, bytes]) => [name, new File(bytes)] as const));
  const fds = [new OpenFile(new File(stdin)), output("stdout"), output("stderr"), new PreopenDirectory(".", contents as Directory["contents"])];
  const wasi = new WASI(args, Object.entries(env).map(([name, value]) => `${name}=${value}`), fds, { debug: false });
  const module = await compile(order);
  const candidates = dialectsOf(module, order);
  const imports: WebAssembly.Imports = { wasi_snapshot_preview1: wasi.wasiImport as WebAssembly.ModuleImports };
  let own: WebAssembly.Memory | undefined;
  const memoryBytes = () => own?.buffer.byteLength ?? 0;
  const engines = order.measure ? measured(service, (call) => report({ kind: "call", ...call, memory: memoryBytes() })) : service;
  const nn = candidates.length === 0 ? undefined
    : new (candidates[0]!.module === "wasi_nn" ? WamrLegacy : Witx)(new Session(engines, order.models, limits), new Negotiation(candidates), log);
  if (nn !== undefined)
    imports[candidates[0]!.module] = Object.fromEntries(Object.entries(nn.functions()).map(([name, call]) =>
      [name, bridge === "jspi" && !AT_ONCE.includes(name) ? new jspi.Suspending(call) : call as WebAssembly.ImportValue]));
  for (const { module: from, name } of WebAssembly.Module.imports(module))
    if (imports[from]?.[name] === undefined) throw new Error(`the guest imports ${from}.${name}, which this host does not have`);
  const instance = await WebAssembly.instantiate(module, imports);
  const { memory, _start } = instance.exports;
  if (typeof _start !== "function") throw new Error("the guest is not a command: it exports no _start");
  wasi.inst = instance as WASI["inst"];
  if (memory instanceof WebAssembly.Memory) own = memory;
  if (nn !== undefined && own !== undefined) nn.memory = new Memory(own);
  try {
    // WASI.start cannot be used: it calls _start without promising.
    if (bridge === "jspi") await jspi.promising(_start as () => void)();
    else _start();
    return { code: 0, memory: memoryBytes() };
  } catch (error) {
    if (error instanceof WASIProcExit) return { code: error.code, memory: memoryBytes() };
    throw error;
  }
}

async function compile({ module, limits }: Order): Promise<WebAssembly.Module> {
  if (limits.wasm_bytes !== null && module.length > limits.wasm_bytes)
    throw new Error(`the guest's binary takes ${module.length} bytes: its limit is ${limits.wasm_bytes}`);
  const compiled = await WebAssembly.compile(module).catch((error: unknown) => {
    throw new Error(`the guest is not a WebAssembly module: ${error instanceof Error ? error.message : String(error)}`);
  });
  return limits.memory === null ? compiled : WebAssembly.compile(limitMemory(module, limits.memory));
}

/** The candidates for the guest's dialect, or the one that is asked for. */
function dialectsOf(module: WebAssembly.Module, { dialect: asked, module: bytes }: Order): Dialect[] {
  const detected = detectDialect(module, bytes);
  if (asked === "auto" || detected.length === 0) return detected;
  const dialect = Object.hasOwn(DIALECTS, asked) ? DIALECTS[asked]! : undefined;
  if (dialect === undefined) throw new Error(`there is no dialect ${asked}; known: auto, ${Object.keys(DIALECTS).join(", ")}`);
  const imported = detected[0]!.module;
  if (dialect.module !== imported) throw new Error(`dialect ${asked} is for guests that import ${dialect.module}; this one imports ${imported}`);
  return [dialect];
}
