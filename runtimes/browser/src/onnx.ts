import type { Engine, Graph, Tensor, TensorInfo } from "./engine.js";
import { loaded, NNError } from "./errors.js";

const TYPES: Record<string, string> = { F16: "float16", F32: "float32", F64: "float64", U8: "uint8", I32: "int32", I64: "int64" };
const { Float16Array = Uint16Array } = globalThis as unknown as { Float16Array?: typeof Uint16Array };
const ARRAYS: Record<string, new (buffer: ArrayBuffer) => ArrayBufferView> = {
  F16: Float16Array, F32: Float32Array, F64: Float64Array, U8: Uint8Array, I32: Int32Array, I64: BigInt64Array,
};
const nameOf = (type: string) => Object.keys(TYPES).find((name) => TYPES[name] === type);

export type Library = typeof import("onnxruntime-web/wasm");

/** ONNX through onnxruntime-web, which is loaded on the first use, with one thread. It has a build for the
 * CPU alone, and a larger one. */
export const onnx: Engine = (model, options) => options.accelerator === "cpu"
  ? onnxWith(import("onnxruntime-web/wasm"), "wasm", model)
  : onnxWith(import("onnxruntime-web/webgpu"), options.accelerator, model);

/** ONNX through a build of the library. */
export async function onnxWith(library: Promise<Library>, provider: string, model: Uint8Array<ArrayBuffer>): Promise<Graph> {
  const ort = await loaded("onnxruntime-web", library);
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(model, { executionProviders: [provider], intraOpNumThreads: 1 });
  const inputs = session.inputMetadata.map((input): TensorInfo => {
    const { name } = input;
    if (!input.isTensor) return { name };
    const type = nameOf(input.type);
    return { name, ...(type && { type }), dims: input.shape.map((dim) => (typeof dim === "number" && dim >= 0 ? dim : -1)) };
  });
  const compute = async (given: ReadonlyMap<number, Tensor>): Promise<Tensor[]> => {
    const feeds: Record<string, InstanceType<typeof ort.Tensor>> = {};
    for (const [index, { type, dims, data }] of given)
      feeds[session.inputNames[index]!] = new ort.Tensor(TYPES[type] as "float32", new ARRAYS[type]!(data.buffer) as Float32Array, dims);
    const results = await session.run(feeds);
    return session.outputNames.map((name): Tensor => {
      const { type, dims, data } = results[name]!;
      const kind = nameOf(type);
      if (kind === undefined) throw new NNError("UNSUPPORTED_OPERATION", `the output type ${type} is not supported`);
      const view = data as Float32Array;
      return { type: kind, dims: [...dims], data: new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice() };
    });
  };
  return { info: { inputs }, open: () => ({ compute }), close: () => session.release() };
}
