// What a file is: the same facts as of `wasi-nn inspect`, as far as the page can tell.
import { WASI } from "@bjorn3/browser_wasi_shim";
import { detectDialect } from "wasi-nn-browser/detection.js";
import { HEAD, recognise } from "wasi-nn-browser/encodings.js";
import { FUNCTIONS } from "wasi-nn-browser/tables.js";

/** The engines of the package, by the encodings that they load. */
export const ENGINES = { onnx: "onnxruntime-web", tensorflowlite: "LiteRT.js", ggml: "wllama" };

const WASM = [0x00, 0x61, 0x73, 0x6d];
const PROVIDED = { ...FUNCTIONS, wasi_snapshot_preview1: new WASI([], [], []).wasiImport };

/** `kind` is guest, model or file; `facts` are titles and texts; `problem` says why it cannot run. */
export async function inspect(bytes) {
  if (WASM.every((byte, index) => bytes[index] === byte)) return guest(bytes);
  const encoding = recognise(bytes.subarray(0, HEAD));
  if (encoding === undefined) return { kind: "file", facts: [] };
  const served = Object.keys(ENGINES);
  const problem = served.includes(encoding) ? undefined : `this page has no engine for ${encoding}; it has ${served.join(", ")}`;
  return { kind: "model", encoding, facts: [["encoding", encoding]], problem };
}

async function guest(bytes) {
  if (bytes[4] === 0x0d) return { kind: "guest", facts: [["is", "a component"]], problem: "this page runs core modules, and this is a component" };
  let module;
  try {
    module = await WebAssembly.compile(bytes);
  } catch (error) {
    return { kind: "guest", facts: [], problem: `it is damaged: ${error.message}` };
  }
  const imports = WebAssembly.Module.imports(module);
  const dialects = detectDialect(module, bytes);
  const command = WebAssembly.Module.exports(module).some(({ name, kind }) => name === "_start" && kind === "function");
  const modules = [...new Set(imports.map((item) => item.module))];
  const named = dialects.length === 0 ? [] : imports.filter((item) => item.module === dialects[0].module).map((item) => item.name);
  const missing = imports.filter((item) => !Object.hasOwn(PROVIDED[item.module] ?? {}, item.name)).map((item) => `${item.module}.${item.name}`);
  const encodings = dialects.length === 0 ? [] : Object.values(dialects[0].encodings).filter((name) => name !== "autodetect");
  const [likely, ...others] = dialects.map(({ name }) => name);
  const facts = [
    ["is", command ? "a command" : "not a command"],
    ["dialect", likely === undefined ? "none: it imports no wasi-nn" : likely + (others.length > 0 ? ` (or ${others.join(", ")}: its tensors will tell)` : "")],
    ...(named.length > 0 ? [["calls", named.join(", ")]] : []),
    ["imports", modules.join(", ") || "nothing"],
    ...(encodings.length > 0 ? [["can name", encodings.join(", ")]] : []),
  ];
  const problem = missing.length > 0 ? `it imports ${missing.join(", ")}, which this page does not have`
    : command ? undefined : "it exports no _start";
  return { kind: "guest", facts, problem };
}
