import type { Engine, Graph, Tensor } from "./engine.js";
import { NNError } from "./errors.js";

const TYPES: Record<string, string> = { F32: "float32", F64: "float64", U8: "uint8", I32: "int32", I64: "int64" };
const ARRAYS: Record<string, new (buffer: ArrayBuffer) => ArrayBufferView> = {
  F32: Float32Array, F64: Float64Array, U8: Uint8Array, I32: Int32Array, I64: BigInt64Array,
};

/** ONNX through onnxruntime-web, which is loaded on the first use, with
 * one thread. */
export const onnx: Engine = async (model): Promise<Graph> => {
    const ort = await import("onnxruntime-web/wasm");
    ort.env.wasm.numThreads = 1;
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    return {
      async compute(inputs) {
        const feeds: Record<string, InstanceType<typeof ort.Tensor>> = {};
        for (const [index, { type, dims, data }] of inputs) {
          const name = session.inputNames[index];
          const array = ARRAYS[type];
          if (name === undefined) throw new NNError("INVALID_ARGUMENT", `the model has no input ${index}`);
          if (array === undefined) throw new NNError("UNSUPPORTED_OPERATION", `the tensor type ${type} is not supported`);
          feeds[name] = new ort.Tensor(TYPES[type] as "float32", new array(data.buffer) as Float32Array, dims);
        }
        const results = await session.run(feeds);
        return session.outputNames.map((name): Tensor => {
          const { type, dims, data } = results[name]!;
          const kind = Object.keys(TYPES).find((key) => TYPES[key] === type);
          if (kind === undefined) throw new NNError("UNSUPPORTED_OPERATION", `the output type ${type} is not supported`);
          const view = data as Float32Array;
          return { type: kind, dims: [...dims], data: new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice() };
        });
      },
    };
};
