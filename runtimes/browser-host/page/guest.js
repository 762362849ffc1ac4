// One guest of a Python host: its instance, its files and streams, and its wasi-nn.
import { WASIProcExit } from "@bjorn3/browser_wasi_shim";
import { AT_ONCE } from "wasi-nn-browser/abi.js";
import { NNError } from "wasi-nn-browser/errors.js";
import { limitsOver } from "wasi-nn-browser/limits.js";
import { Memory } from "wasi-nn-browser/memory.js";
import { Negotiation } from "wasi-nn-browser/negotiation.js";
import { onnx } from "wasi-nn-browser/onnx.js";
import { Service } from "wasi-nn-browser/service.js";
import { Session } from "wasi-nn-browser/session.js";
import { DIALECTS } from "wasi-nn-browser/tables.js";
import { WamrLegacy } from "wasi-nn-browser/wamr-legacy.js";
import { Witx } from "wasi-nn-browser/witx.js";
import { ask, tell } from "./server.js";
import { wasi as wasiOf } from "./wasi.js";

const ENGINES = { onnx };
const LINE = /^(\w+)\((.*?)\) -> (\d+) \w+: (.*)$/s;
const { Suspending, promising } = WebAssembly;
let instance;

/** A model whose bytes come from the host when the guest first loads it. */
const model = ({ encoding, number }) => {
  let data;
  return { encoding, get data() { return (data ??= ask(`file/${number}`)); } };
};

/** The functions of wasi-nn, under the policy of the Python host. */
function wasiNn({ dialects, models, ownModels, encodings, limits }) {
  const candidates = dialects.map((name) => DIALECTS[name]);
  const engines = Object.fromEntries(Object.entries(ENGINES).filter(([name]) => encodings === null || encodings.includes(name)));
  const session = new Session(new Service(engines), Object.fromEntries(models.map(([name, one]) => [name, model(one)])), limitsOver(limits));
  const abi = candidates[0].module === "wasi_nn" ? WamrLegacy : Witx;
  const nn = new abi(session, new Negotiation(candidates), (line) => {
    const [, name, args, errno, reason] = LINE.exec(line);
    tell("failed", JSON.stringify({ name, args: args.split(", ").map(Number), errno: Number(errno), reason }));
  });
  if (!ownModels) nn.load = () => { throw new NNError("SECURITY", "own-models: a guest may use named models alone"); };
  return [candidates[0].module, nn];
}

async function link() {
  if (Suspending === undefined) throw new WebAssembly.LinkError("the browser has no JSPI (WebAssembly.Suspending), which this runtime needs: use a newer one");
  const order = JSON.parse(new TextDecoder().decode(ask("order")));
  const wasi = wasiOf(order);
  const imports = { wasi_snapshot_preview1: wasi.wasiImport };
  let nn;
  if (order.dialects.length > 0) {
    let from;
    [from, nn] = wasiNn(order);
    const calls = Object.entries(nn.functions());
    imports[from] = Object.fromEntries(calls.map(([name, call]) => [name, AT_ONCE.includes(name) ? call : new Suspending(call)]));
  }
  instance = await WebAssembly.instantiate(await WebAssembly.compile(ask("wasm")), imports);
  wasi.inst = instance;
  const { memory } = instance.exports;
  if (nn !== undefined && memory instanceof WebAssembly.Memory) nn.memory = new Memory(memory);
  return order.start === null ? [] : call({ export: order.start, values: [], kinds: [] });
}

/** Calls an export. Numbers travel as text: JSON has no integers of 64 bits, no NaN and no infinity. */
async function call({ export: name, values, kinds }) {
  const numbers = values.map((text, index) => (kinds[index] === "i64" ? BigInt(text) : Number(text)));
  const result = await promising(instance.exports[name])(...numbers);
  return (result === undefined ? [] : Array.isArray(result) ? result : [result]).map(String);
}

function ended(error) {
  if (error instanceof WASIProcExit) return { kind: "exit", code: error.code };
  if (error instanceof WebAssembly.LinkError) return { kind: "link", text: error.message };
  return { kind: "trap", text: error instanceof Error ? error.message : String(error) };
}

self.onmessage = async ({ data: { guest, command } }) => {
  tell.guest = guest;
  let result;
  try {
    result = { kind: "ok", values: command.do === "link" ? await link() : await call(command) };
  } catch (error) {
    result = ended(error);
  }
  tell("done", JSON.stringify(result));
};
