// A guest's cycles, and the same engine called from plain JavaScript, by turns in one worker.
import { AT_ONCE } from "wasi-nn-browser/abi.js";
import { ENGINES } from "wasi-nn-browser/engines.js";
import { limitsOver } from "wasi-nn-browser/limits.js";
import { Memory } from "wasi-nn-browser/memory.js";
import { Negotiation } from "wasi-nn-browser/negotiation.js";
import { Service } from "wasi-nn-browser/service.js";
import { Session } from "wasi-nn-browser/session.js";
import { DIALECTS } from "wasi-nn-browser/tables.js";
import { Witx } from "wasi-nn-browser/witx.js";

const { Suspending, promising } = WebAssembly;
const DIALECT = DIALECTS.wasmedge;
// Where the guest keeps its dimensions, its tensor, and the tensor's data.
const [DIMS, TENSOR, DATA] = [64, 32, 65536];
/** The library's names of what the guest's config says. */
const GREEDY = { temperature: 0 };

/** The guest's `cycle`, which repeats set_input, compute and get_output, or `say`, which takes tokens. */
async function guestOf({ guest, model, encoding, dims, input, config, call, folder }) {
  const log = [];
  const models = { m: { encoding, data: model, config } };
  const abi = new Witx(new Session(new Service(ENGINES, folder), models, limitsOver({})), new Negotiation([DIALECT]), (line) => log.push(line));
  const functions = Object.entries(abi.functions()).map(([name, one]) => [name, AT_ONCE.includes(name) ? one : new Suspending(one)]);
  const { instance: { exports } } = await WebAssembly.instantiate(guest, { wasi_ephemeral_nn: Object.fromEntries(functions) });
  abi.memory = new Memory(exports.memory);
  const words = new Uint32Array(exports.memory.buffer);
  words.set(dims, DIMS / 4);
  const type = encoding === "ggml" ? "U8" : "F32";
  words.set([DIMS, dims.length, DIALECT.tensorTypes.indexOf(type), DATA, input.byteLength], TENSOR / 4);
  new Uint8Array(exports.memory.buffer).set(new Uint8Array(input.buffer), DATA);
  const must = async (name, ...args) => {
    const errno = await promising(exports[name])(...args);
    if (errno !== 0) throw new Error(`${name} gave ${errno}: ${log.join("; ")}`);
  };
  await must("open");
  return (count) => must(call, count);
}

const DIRECT = {
  async onnx({ model, dims, input }) {
    const ort = await import("onnxruntime-web/wasm");
    ort.env.wasm.numThreads = 1;
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    return async (count) => {
      for (let n = 0; n < count; n++) {
        const results = await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", input, dims) });
        results[session.outputNames[0]].data.at(-1);
      }
    };
  },

  async tensorflowlite({ model, dims, input }) {
    // (The guest's engine has started the library.)
    const lite = await import("@litertjs/core");
    const compiled = await lite.loadAndCompile(model, { accelerator: "wasm", cpuOptions: { numThreads: 1 } });
    return async (count) => {
      for (let n = 0; n < count; n++) {
        const tensor = new lite.Tensor(input, dims);
        const results = await compiled.run([tensor]);
        results[0].toTypedArray().at(-1);
        for (const one of [tensor, ...results]) if (!one.deleted) one.delete();
      }
    };
  },

  async ggml({ model, prompt, config, folder }) {
    const { Wllama } = await import("@wllama/wllama");
    const silent = { debug() {}, log() {}, warn() {}, error() {} };
    const llama = new Wllama({ default: `${folder}wllama.wasm` }, { suppressNativeLog: true, logger: silent });
    await llama.loadModel([new Blob([model])], { n_gpu_layers: 0, n_threads: 1, n_parallel: 1, warmup: false, n_ctx: config["ctx-size"] });
    return async (count) => {
      const stop = new AbortController();
      const chunks = await llama.createCompletion({ stream: true, stream_options: { include_usage: true }, abortSignal: stop.signal, prompt, ...GREEDY });
      let left = count;
      for await (const chunk of chunks) if (chunk.choices[0]?.text && --left === 0) break;
      stop.abort();
      if (left > 0) throw new Error(`the text ended ${left} tokens early`);
    };
  },
};

async function timed(run, count) {
  const begun = performance.now();
  await run(count);
  return (performance.now() - begun) / count;
}

self.onmessage = async ({ data: order }) => {
  try {
    const size = order.dims.reduce((product, dim) => product * dim, 1);
    const input = order.encoding === "ggml" ? new TextEncoder().encode(order.prompt) : Float32Array.from({ length: size }, (_, at) => (at % 251) / 251);
    const given = { ...order, input, dims: order.encoding === "ggml" ? [input.length] : order.dims };
    const guest = await guestOf(given);
    const direct = await DIRECT[order.encoding](given);
    const result = [];
    for (const run of [guest, direct]) for (let warm = 0; warm < 3; warm++) await run(order.count);
    for (let pair = 0; pair < order.pairs; pair++) {
      // The second finds warmer caches, so they swap.
      const first = await timed(pair % 2 ? guest : direct, order.count);
      const second = await timed(pair % 2 ? direct : guest, order.count);
      result.push(pair % 2 ? [first, second] : [second, first]);
    }
    self.postMessage({ result });
  } catch (error) {
    self.postMessage({ failure: String(error) });
  }
};
