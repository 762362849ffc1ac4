// The functions of each dialect, without a browser: a service that echoes, and a guest's memory.
import assert from "node:assert/strict";
import { test } from "node:test";
import { NNError } from "../dist/errors.js";
import { limitsOver } from "../dist/limits.js";
import { Memory } from "../dist/memory.js";
import { Negotiation } from "../dist/negotiation.js";
import { Session } from "../dist/session.js";
import { DIALECTS, FUNCTIONS } from "../dist/tables.js";
import { WamrLegacy } from "../dist/wamr-legacy.js";
import { Witx } from "../dist/witx.js";

const PAGE = 65536;
const text = (string) => new TextEncoder().encode(string);
const u8 = (string) => ({ type: "U8", dims: [string.length], data: text(string) });
const MODELS = { net: { encoding: "onnx", data: new Uint8Array(4) }, llm: { encoding: "ggml", data: new Uint8Array(1), config: { a: 1, b: 2 } } };
// One input of any f32, or untyped bytes that stream letter by letter.
const INFO = { onnx: { inputs: [{ name: "x", type: "F32", dims: [1, -1] }] }, ggml: { untypedBytes: true, streams: true } };

function guest({ dialects = ["witx"], limits = {} } = {}) {
  const found = { log: [], freed: [], loaded: [] };
  const left = new Map();
  const service = {
    load: (graph, encoding, data, options) => {
      found.loaded.push([encoding, data.length, options]);
      return INFO[encoding] ?? (() => { throw new NNError("INVALID_ENCODING", encoding); })();
    },
    compute: (graph, context, inputs) => [...inputs.values()],
    computeSingle: (graph, context, inputs) => {
      const rest = left.get(context) ?? new TextDecoder().decode(inputs.get(0).data);
      if (rest === "") throw new NNError("END_OF_SEQUENCE", "");
      left.set(context, rest.slice(1));
      return { pieces: [u8(rest[0])], outputs: [u8(rest)] };
    },
    finiSingle: (graph, context) => void left.delete(context),
    unload: (graph) => void found.freed.push(`graph ${graph}`),
    close: (context) => void found.freed.push(`context ${context}`),
  };
  const negotiation = new Negotiation(dialects.map((name) => DIALECTS[name]));
  const legacy = negotiation.dialect.module === "wasi_nn";
  const abi = new (legacy ? WamrLegacy : Witx)(new Session(service, MODELS, limitsOver(limits)), negotiation, (line) => found.log.push(line));
  const memory = new WebAssembly.Memory({ initial: 1 });
  abi.memory = new Memory(memory);
  const view = new DataView(memory.buffer);
  const put = (at, value) => {
    const bytes = typeof value === "string" ? text(value) : value instanceof Uint8Array ? value : new Uint8Array(new Uint32Array([value].flat()).buffer);
    new Uint8Array(memory.buffer).set(bytes, at);
    return bytes.length;
  };
  const get = (at, length) => new TextDecoder().decode(new Uint8Array(memory.buffer, at, length));
  return { ...found, calls: abi.functions(), put, get, u32: (at) => view.getUint32(at, true), negotiation };
}

/** Loads the named model, opens a context, and sets its input 0 to a text of `type`. */
function opened(name, string, type, options = {}) {
  const host = guest(options);
  host.put(1000, name);
  assert.equal(host.calls.load_by_name(1000, name.length, 0), 0);
  assert.equal(host.calls.init_execution_context(host.u32(0), 4), 0);
  host.put(2000, string);
  host.put(100, [200, 2, type, 2000, string.length]);
  host.put(200, [1, string.length / 4]);
  return { ...host, set: () => host.calls.set_input(0, 0, 100) };
}

for (const dialect of Object.values(DIALECTS)) {
  test(`hostile numbers in ${dialect.name}`, () => {
    let seed = 1;
    const random = (count) => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) % count;
    const edges = [0, 1, 2, 4, 19, 20, PAGE - 20, PAGE - 4, PAGE - 1, PAGE, PAGE + 1, 0x7fffffff, -0x80000000, -4, -1];
    const { calls } = guest({ dialects: [dialect.name] });
    const functions = Object.entries(FUNCTIONS[dialect.module]);
    const known = new Set([0, ...Object.values(dialect.errnos)]);
    for (let n = 0; n < 3000; n++) {
      const [name, count] = functions[random(functions.length)];
      const args = Array.from({ length: count }, () => edges[random(edges.length)]);
      const errno = calls[name](...args);
      assert.ok(known.has(errno), `${name}(${args}) gave ${errno}`);
    }
  });
}

test("a pointer out of memory is refused before the call has an effect", () => {
  const { calls, log, loaded } = guest();
  assert.equal(calls.load_by_name(0, 0, PAGE - 3), 1);
  assert.match(log[0], /^load_by_name\(0, 0, 65533\) -> 1 invalid_argument: .*not in the guest's memory/);
  assert.deepEqual(loaded, []);
});

test("arguments of other types, and too few, are numbers like any", () => {
  const { calls } = guest();
  assert.equal(calls.compute(7n), 1);
  assert.equal(calls.load(), 1);
});

test("a stream gives its pieces, and then its end, which is not a failure", () => {
  for (const [dialect, end] of [["wasmedge", 100], ["wasmedge-2023-12", 9], ["witx", 5]]) {
    const { set, calls, u32, get, log } = opened("llm", "ab", 3, { dialects: [dialect] });
    assert.equal(set(), 0);
    for (const letter of "ab") {
      assert.equal(calls.compute_single(0), 0);
      assert.equal(calls.get_output_single(0, 0, 3000, 10, 8), 0);
      assert.equal(get(3000, u32(8)), letter);
    }
    assert.equal(calls.get_output(0, 0, 3000, 10, 8), 0);
    assert.equal(calls.compute_single(0), end);
    assert.deepEqual(log, []);
    assert.equal(calls.fini_single(0), 0);
    assert.equal(calls.get_output_single(0, 0, 3000, 10, 8), 1);
    assert.equal(calls.compute_single(0), 0);
  }
});

test("a model that does not stream says so", () => {
  const { set, calls } = opened("net", "abcd", 1);
  assert.equal(set(), 0);
  for (const [name, ...args] of [["compute_single", 0], ["get_output_single", 0, 0, 3000, 9, 8], ["fini_single", 0]])
    assert.equal(calls[name](...args), 6, name);
});

test("the size 0 is unbounded for a language model of WasmEdge's dialects alone", () => {
  for (const [name, dialect, errno] of [["llm", "wasmedge", 0], ["llm", "witx", 7], ["net", "wasmedge", 7]]) {
    const { set, calls, u32 } = opened(name, "abcd", 1, { dialects: [dialect] });
    set();
    assert.equal(calls.compute(0), 0);
    assert.equal(calls.get_output(0, 0, 3000, 0, 8), errno);
    assert.equal(u32(8), 4);
    assert.equal(calls.get_output(0, 0, PAGE - 2, 0, 8), errno || 1);
  }
});

test("after unload a context can be read, and its graph is freed with it", () => {
  const { set, calls, freed } = opened("net", "abcd", 1);
  set();
  assert.equal(calls.compute(0), 0);
  assert.equal(calls.unload(0), 0);
  assert.equal(calls.unload(0), 1);
  assert.equal(calls.init_execution_context(0, 4), 1);
  assert.equal(set(), 1);
  assert.equal(calls.compute(0), 1);
  assert.equal(calls.get_output(0, 0, 3000, 4, 8), 0);
  assert.deepEqual(freed, []);
  assert.equal(calls.finalize_execution_context(0), 0);
  assert.deepEqual(freed, ["context 0", "graph 0"]);
  assert.equal(calls.finalize_execution_context(0), 1);
});

test("a config is laid over the model's own", () => {
  const { put, calls, loaded } = guest();
  put(0, "llm");
  const config = (string) => calls.load_by_name_with_config(0, 3, 100, put(100, string), 8);
  assert.deepEqual(['{"b": 3}\0', "", " \0", "{", "[]", "1"].map(config), [0, 0, 0, 2, 1, 1]);
  assert.deepEqual(loaded.map(([, , options]) => options.config), [{ a: 1, b: 3 }, { a: 1, b: 2 }, { a: 1, b: 2 }]);
});

test("a language model's configs are laid over one another, and a mistake in one changes nothing", () => {
  const { put, calls, get, u32 } = opened("llm", "Hi", 3);
  const set = (config) => {
    put(100, [200, 1, 3, 2000, put(2000, config)]);
    return calls.set_input(0, 1, 100);
  };
  assert.deepEqual(['{"a": 1, "b": 2}', '{"b": 3}', "{", "[]"].map(set), [0, 0, 2, 1]);
  assert.equal(calls.compute(0), 0);
  assert.equal(calls.get_output(0, 0, 3000, 99, 8), 0);
  assert.deepEqual(JSON.parse(get(3000, u32(8))), { a: 1, b: 3 });
});

test("a tensor must be one that the model takes, and all inputs must be set", () => {
  const { calls, set, put, log } = opened("net", "abcdefgh", 1);
  assert.equal(calls.compute(0), 1);
  assert.match(log.at(-1), /input x is not set/);
  put(200, [2, 1]);
  assert.equal(set(), 1);
  assert.match(log.at(-1), /input x takes dimensions \[1,-1\], not \[2,1\]/);
  put(200, [1, 2]);
  put(108, 4);
  assert.equal(set(), 1);
  assert.match(log.at(-1), /input x takes F32 tensors, not I32/);
  put(108, 1);
  assert.equal(calls.set_input(0, 1, 100), 1);
  assert.match(log.at(-1), /input index 1 is out of range/);
  assert.equal(set(), 0);
  assert.equal(calls.get_output(0, 0, 3000, 9, 8), 1);
  assert.equal(calls.compute(0), 0);
});

test("a tensor's length decides its dialect, and what it decided holds", () => {
  const { negotiation } = guest({ dialects: ["witx", "witx-2022", "wamr-2.1"] });
  assert.equal(negotiation.tensorType(2, [2], 16), "F64");
  assert.equal(negotiation.tensorType(2, [2], 2), "U8");
  negotiation.commit();
  assert.equal(negotiation.dialect.name, "witx-2022");
  assert.equal(negotiation.tensorType(2, [2], 16), "U8");
});

test("a model's first bytes decide an encoding that dialects read otherwise", () => {
  const { put, calls, loaded, log } = guest({ dialects: ["witx", "witx-2022"] });
  const load = (bytes, encoding) => {
    put(0, [100, put(100, bytes)]);
    return calls.load(0, 1, encoding, 0, 8);
  };
  const onnx = Uint8Array.of(8, 8, 0x12, 0);
  assert.deepEqual([load(onnx, 2), load(onnx, 1), load("GGUF", 5), load("none", 1)], [0, 0, 0, 0]);
  assert.deepEqual(loaded.map(([encoding]) => encoding), ["onnx", "onnx", "ggml", "onnx"]);
  assert.deepEqual([load("none", 5), load("xxxxTFL3", 4), load(onnx, 99)], [2, 2, 2]);
  assert.match(log.at(-1), /graph encoding 99 is unknown in the dialect witx/);
});

test("WAMR's legacy guests count in f32 elements", () => {
  const { put, calls, u32, get } = guest({ dialects: ["wamr-legacy"] });
  put(0, [8, 1, 100, 4, 0]);
  assert.equal(calls.load(0, 1, 0, 16), 0);
  assert.equal(calls.init_execution_context(u32(16), 20), 0);
  put(300, [400, 1, 500]);
  put(400, [450, 2]);
  put(450, [1, 2]);
  put(500, "abcdefgh");
  assert.equal(calls.set_input(0, 0, 300), 0);
  assert.equal(calls.compute(0), 0);
  put(600, 1);
  assert.equal(calls.get_output(0, 0, 700, 600), 7);
  assert.equal(u32(600), 2);
  assert.equal(calls.get_output(0, 0, 700, 600), 0);
  assert.equal(get(700, 8), "abcdefgh");
  put(450, [0xffffffff, 0xffffffff]);
  assert.equal(calls.set_input(0, 0, 300), 1);
});

test("limits hold, and what is given back counts no more", () => {
  const { put, calls, set, u32, log } = opened("net", "abcdefgh", 1, { limits: { graphs: 2, contexts: 1, model_bytes: 5, tensor_bytes: 15 } });
  put(300, [310, 4]);
  const load = () => calls.load(300, 1, 1, 0, 400);
  assert.equal(calls.init_execution_context(0, 4), 5);
  assert.match(log.at(-1), /quota contexts: .* limit of 1/);
  assert.equal(load(), 0);
  assert.equal(load(), 5);
  assert.match(log.at(-1), /quota model_bytes: the guest holds 4, and 4 more are above its limit of 5/);
  assert.equal(calls.load_by_name(1000, 3, 404), 5);
  assert.match(log.at(-1), /quota graphs/);
  assert.equal(calls.unload(u32(400)), 0);
  assert.equal(load(), 0);
  assert.equal(set(), 0);
  assert.equal(calls.compute(0), 0);
  assert.equal(calls.get_output(0, 0, 3000, 8, 8), 5);
  assert.match(log.at(-1), /quota tensor_bytes: the guest holds 8, and 8 more/);
  assert.equal(calls.finalize_execution_context(0), 0);
  assert.equal(calls.init_execution_context(0, 4), 0);
  assert.throws(() => limitsOver({ fuel: 1 }), /there is no limit fuel in the browser; known: memory, graphs/);
  assert.throws(() => limitsOver({ graphs: -1 }), /the limit graphs is -1/);
});
