import type { Tensor } from "./engine.js";
import { NNError } from "./errors.js";
import type { Memory } from "./memory.js";
import { then, type Later, type Remote } from "./service.js";
import { DIALECTS, FUNCTIONS, MAX_BUILDERS, MAX_NAME, MAX_RANK, TARGETS, TENSOR_TYPES, type Dialect } from "./tables.js";

interface Context {
  /** The service's number. */
  graph: number;
  inputs: Map<number, Tensor>;
  outputs: Tensor[] | undefined;
}

export interface Model {
  encoding: string;
  data: Uint8Array<ArrayBuffer>;
}

/** One guest's graphs and contexts, and the functions of `wasi_ephemeral_nn` on them. Each checks
 * the guest's pointers in the order of the Python host, with out-pointers first. */
export class Host {
  private readonly dialect: Dialect;
  private readonly graphs: number[] = [];
  private readonly contexts: Context[] = [];
  /** The guest's, once it is instantiated. */
  memory!: Memory;

  constructor(
    dialect: string,
    private readonly service: Remote,
    private readonly models: Record<string, Model>,
    private readonly log: (message: string) => void,
  ) {
    const table = Object.hasOwn(DIALECTS, dialect) ? DIALECTS[dialect] : undefined;
    if (table?.module !== "wasi_ephemeral_nn") throw new Error(`the dialect ${dialect} is not supported in the browser`);
    this.dialect = table;
  }

  /** Every function, as one that gives an errno and never throws. Where the service answers with
   * promises, those that wait for it do too. */
  functions(): Record<string, (...args: number[]) => Later<number>> {
    const own = this as unknown as Record<string, ((...args: number[]) => unknown) | undefined>;
    return Object.fromEntries(
      Object.keys(FUNCTIONS).map((name) => {
        const failed = (error: unknown) => {
          // An exception's own `code` is never an errno: DOMException has numbers there.
          const code = error instanceof NNError ? error.code : "RUNTIME_ERROR";
          this.log(`${name}: ${error instanceof Error ? error.message : String(error)}`);
          return this.dialect.errnos[code]!;
        };
        return [name, (...args: number[]) => {
          try {
            const call = own[name];
            if (call === undefined) throw new NNError("UNSUPPORTED_OPERATION", "the browser's host does not have it");
            if (this.memory === undefined) throw new NNError("MISSING_MEMORY", "the guest exports no memory");
            const done = call.apply(this, args);
            return done instanceof Promise ? done.then(() => 0, failed) : 0;
          } catch (error) {
            return failed(error);
          }
        }];
      }),
    );
  }

  load(builders: number, count: number, encoding: number, target: number, out: number): Later<void> {
    this.memory.check(out, 4);
    if (count >>> 0 > MAX_BUILDERS) throw new NNError("INVALID_ARGUMENT", `${count >>> 0} graph builders are too many`);
    if (count !== 1) throw new NNError("INVALID_ARGUMENT", `a model has one graph builder, not ${count >>> 0}`);
    if (TARGETS[target] === undefined) throw new NNError("INVALID_ARGUMENT", `execution target ${target >>> 0} is unknown`);
    const [at, length] = this.memory.u32(builders, 2);
    const data = this.memory.read(at!, length!);
    let name = this.dialect.encodings[encoding];
    if (name === "autodetect") name = sniff(data);
    return this.open(name, data, out);
  }

  load_by_name(name: number, length: number, out: number): Later<void> {
    this.memory.check(out, 4);
    if (length >>> 0 > MAX_NAME) throw new NNError("INVALID_ARGUMENT", `a name has at most ${MAX_NAME} bytes`);
    const text = new TextDecoder().decode(this.memory.read(name, length));
    const model = Object.hasOwn(this.models, text) ? this.models[text] : undefined;
    if (model === undefined) throw new NNError("MODEL_NOT_FOUND", `there is no model ${JSON.stringify(text)}`);
    return this.open(model.encoding, model.data, out);
  }

  init_execution_context(graph: number, out: number): void {
    this.memory.check(out, 4);
    const context = { graph: find(this.graphs, graph, "graph"), inputs: new Map<number, Tensor>(), outputs: undefined };
    this.memory.writeU32(out, this.contexts.push(context) - 1);
  }

  set_input(handle: number, index: number, tensor: number): void {
    const head = new DataView(this.memory.read(tensor, 20).buffer);
    const rank = head.getUint32(4, true);
    if (rank > MAX_RANK) throw new NNError("INVALID_ARGUMENT", `the tensor has ${rank} dimensions: at most ${MAX_RANK} are allowed`);
    const dims = this.memory.u32(head.getUint32(0, true), rank);
    const data = this.memory.read(head.getUint32(12, true), head.getUint32(16, true));
    const context = find(this.contexts, handle, "context");
    const number = head.getUint8(8);
    const type = this.dialect.tensorTypes[number];
    if (type === undefined) throw new NNError("INVALID_ARGUMENT", `tensor type ${number} is unknown`);
    const expected = dims.reduce((product, dim) => product * dim, TENSOR_TYPES[type]!);
    if (expected !== data.length) throw new NNError("INVALID_ARGUMENT", `the tensor takes ${expected} bytes, not ${data.length}`);
    context.inputs.set(index >>> 0, { type, dims, data });
  }

  compute(handle: number): Later<void> {
    const context = find(this.contexts, handle, "context");
    context.outputs = undefined;
    return then(this.service.compute(context.graph, context.inputs), (outputs) => { context.outputs = outputs; });
  }

  get_output(handle: number, index: number, buffer: number, size: number, out: number): void {
    this.memory.check(buffer, size);
    this.memory.check(out, 4);
    const { outputs } = find(this.contexts, handle, "context");
    if (outputs === undefined) throw new NNError("RUNTIME_ERROR", "there is no output before compute");
    const data = outputs[index >>> 0]?.data;
    if (data === undefined) throw new NNError("INVALID_ARGUMENT", `the model has no output ${index >>> 0}`);
    if (data.length > size >>> 0) {
      this.memory.writeU32(out, data.length);
      throw new NNError("TOO_LARGE", `the output takes ${data.length} bytes, the buffer has ${size >>> 0}`);
    }
    this.memory.write(buffer, data);
    this.memory.writeU32(out, data.length);
  }

  private open(encoding: string | undefined, data: Uint8Array<ArrayBuffer>, out: number): Later<void> {
    if (encoding === undefined) throw new NNError("INVALID_ENCODING", "the dialect does not have this encoding");
    return then(this.service.load(encoding, data), (graph) => this.memory.writeU32(out, this.graphs.push(graph) - 1));
  }
}

function find<T>(table: readonly T[], handle: number, kind: string): T {
  const value = table[handle >>> 0];
  if (value === undefined) throw new NNError("INVALID_ARGUMENT", `there is no ${kind} ${handle >>> 0}`);
  return value;
}

/** The encoding that a model's first bytes show. */
function sniff(data: Uint8Array): string {
  const head = new TextDecoder("latin1").decode(data.subarray(0, 8));
  if (head.startsWith("GGUF")) return "ggml";
  if (head.slice(4) === "TFL3") return "tensorflowlite";
  return "onnx";
}
