import type { Tensor as LiteTensor } from "@litertjs/core";
import type { Engine, Tensor, TensorInfo } from "./engine.js";
import { loaded, NNError } from "./errors.js";

const TYPES: Record<string, string> = { float32: "F32", int32: "I32", uint8: "U8" };
const ARRAYS: Record<string, new (buffer: ArrayBuffer) => Float32Array> = {
  F32: Float32Array, I32: Int32Array as never, U8: Uint8Array as never,
};
type Lite = typeof import("@litertjs/core");
let started: Promise<Lite> | undefined;

/** TensorFlow Lite through LiteRT.js, which is loaded on the first use, with one thread. */
export const tensorflowlite: Engine = async (model, { folder, accelerator }) => {
  // On WebGPU, a graph that gives its input back gave zeros.
  if (accelerator !== "cpu") throw new NNError("UNSUPPORTED_OPERATION", `TensorFlow Lite models are not computed on ${accelerator} here: choose cpu`);
  const lite = await (started ??= loaded("@litertjs/core", start(folder)));
  const compiled = await lite.loadAndCompile(model, { accelerator: "wasm", cpuOptions: { numThreads: 1 } });
  const inputs = compiled.getInputDetails().map(({ name, dtype, shape }): TensorInfo => {
    const type = TYPES[dtype];
    return { name, ...(type && { type }), dims: [...shape] };
  });
  const compute = async (given: ReadonlyMap<number, Tensor>): Promise<Tensor[]> => {
    const tensors: LiteTensor[] = [];
    try {
      const feeds = inputs.map((_, index) => {
        const { type, dims, data } = given.get(index)!;
        const tensor = new lite.Tensor(new ARRAYS[type]!(data.buffer), dims);
        tensors.push(tensor);
        return tensor;
      });
      const results = await compiled.run(feeds);
      tensors.push(...results);
      return results.map((result): Tensor => {
        const { dtype, layout } = result.type;
        const type = TYPES[dtype];
        if (type === undefined) throw new NNError("UNSUPPORTED_OPERATION", `the output type ${dtype} is not supported`);
        const view = result.toTypedArray();
        return { type, dims: [...layout.dimensions], data: new Uint8Array(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength).slice() };
      });
    } finally {
      for (const tensor of tensors) if (!tensor.deleted) tensor.delete();
    }
  };
  return { info: { inputs }, open: () => ({ compute }), close: async () => compiled.delete() };
};

/** Starts the library. It loads its script with importScripts, which a module worker has not. So the script
 * comes as a module first, and the library finds what the script defines. */
async function start(folder: string): Promise<Lite> {
  const lite = await import("@litertjs/core");
  const name = (await lite.supportsFeature("relaxedSimd")) ? "litert_wasm_internal" : "litert_wasm_compat_internal";
  // In a module, the script's own variables are not global, but it looks for an AMD loader too.
  const define = Object.assign((_: unknown, make: () => unknown) => Object.assign(self, { ModuleFactory: make() }), { amd: true });
  Object.assign(self, { define, importScripts: () => {}, Module: { locateFile: (file: string) => `${folder}${file}` } });
  await import(/* @vite-ignore */ `${folder}${name}.js`);
  await lite.loadLiteRt(`${folder}${name}.js`);
  return lite;
}
