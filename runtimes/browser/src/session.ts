import { parseConfig, type Config } from "./config.js";
import { HEAD, recognise } from "./encodings.js";
import type { GraphInfo, LoadOptions, Step, Tensor, TensorInfo } from "./engine.js";
import { NNError } from "./errors.js";
import { check, type Limits } from "./limits.js";
import { byteSize } from "./memory.js";
import { then, type Later, type Remote } from "./service.js";

/** A model that the page offers under a name. */
export interface Model {
  /** As the first bytes show it, unless told. */
  encoding?: string;
  data: Uint8Array<ArrayBuffer>;
  /** A name of TARGETS, `cpu` unless told. */
  target?: string;
  config?: Config;
}

/** The input of a language model that takes its config. */
const CONFIG = 1;

interface Graph {
  info: GraphInfo;
  /** The bytes that count as the guest's own. */
  brought: number;
  unloaded: boolean;
}

export interface Execution {
  readonly graph: number;
  readonly info: GraphInfo;
  readonly inputs: Map<number, Tensor>;
  outputs: readonly Tensor[] | undefined;
  pieces: readonly Tensor[] | undefined;
}

/** One guest's graphs and execution contexts, by handle. Handles start at 0, grow, and are never reused. A
 * context keeps its graph alive. After `unload` its outputs can be read, and nothing else. */
export class Session {
  private readonly graphs = new Map<number, Graph>();
  private readonly contexts = new Map<number, Execution>();
  private loads = 0;
  private opens = 0;
  /** Bytes of the models that the guest has brought, and of the inputs that are set. */
  private brought = 0;
  private tensors = 0;

  constructor(
    private readonly service: Remote,
    private readonly models: Record<string, Model>,
    private readonly limits: Limits,
  ) {}

  /** Loads a model of the guest's own, and gives its handle. */
  load(encoding: string, data: Uint8Array<ArrayBuffer>, target: string): Later<number> {
    check(this.limits, "model_bytes", this.brought, data.length);
    return this.add(encoding, data, { target, config: {} }, data.length);
  }

  loadByName(name: string, config: Config): Later<number> {
    const model = Object.hasOwn(this.models, name) ? this.models[name] : undefined;
    if (model === undefined) throw new NNError("NOT_FOUND", `there is no model ${JSON.stringify(name)}`);
    const options = { target: model.target ?? "cpu", config: { ...model.config, ...config } };
    const encoding = model.encoding ?? recognise(model.data.subarray(0, HEAD));
    if (encoding === undefined) throw new NNError("INVALID_ENCODING", `the model ${name} is of no known encoding`);
    return this.add(encoding, model.data, options, 0);
  }

  unload(handle: number): Later<void> {
    const graph = this.graph(handle);
    graph.unloaded = true;
    return this.release(handle, graph);
  }

  open(handle: number): number {
    const { info } = this.graph(handle);
    check(this.limits, "contexts", this.contexts.size, 1);
    this.contexts.set(this.opens, { graph: handle, info, inputs: new Map(), outputs: undefined, pieces: undefined });
    return this.opens++;
  }

  close(handle: number): Later<void> {
    const { graph, inputs } = this.context(handle);
    this.contexts.delete(handle);
    for (const { data } of inputs.values()) this.tensors -= data.length;
    return then(this.service.close(handle), () => this.release(graph, this.graphs.get(graph)!));
  }

  context(handle: number): Execution {
    const context = this.contexts.get(handle);
    if (context === undefined) throw new NNError("INVALID_ARGUMENT", `there is no execution context with handle ${handle}`);
    return context;
  }

  /** Sets an input to a copy of the data. */
  setInput(context: Execution, index: number, type: string, dims: number[], data: Uint8Array): void {
    const { info: { inputs, untypedBytes } } = context;
    const expected = byteSize(type, dims);
    if (expected !== data.length && !untypedBytes)
      throw new NNError("INVALID_ARGUMENT", `a ${type} tensor of dimensions [${String(dims)}] takes ${expected} bytes, not ${data.length}`);
    this.live(context);
    const old = context.inputs.get(index)?.data;
    if (untypedBytes && index === CONFIG) data = overConfig(data, old);
    const more = data.length - (old?.length ?? 0);
    check(this.limits, "tensor_bytes", this.tensors, more);
    if (inputs !== undefined && !untypedBytes) checkInput(inputs, index, type, dims);
    // An input of the same size takes the place of the old one: new memory costs more than the copy. (No engine
    // keeps an input, and outputs have arrays of their own.)
    const kept = old?.length === data.length ? old : new Uint8Array(data.length);
    kept.set(data);
    context.inputs.set(index, { type, dims, data: kept });
    this.tensors += more;
  }

  compute(handle: number): Later<void> {
    const context = this.ready(handle);
    context.outputs = undefined;
    return then(this.service.compute(context.graph, handle, context.inputs), (outputs) => { context.outputs = outputs; });
  }

  computeSingle(handle: number): Later<void> {
    const context = this.streaming(this.ready(handle));
    return then(this.service.computeSingle(context.graph, handle, context.inputs), ({ pieces, outputs }: Step) => {
      context.pieces = pieces;
      context.outputs = outputs;
    });
  }

  finiSingle(handle: number): Later<void> {
    const context = this.streaming(this.context(handle));
    context.pieces = undefined;
    return this.service.finiSingle(context.graph, handle);
  }

  /** An output of the last computation, or of the last step of a stream. */
  output(context: Execution, from: "outputs" | "pieces", index: number): Tensor {
    const tensors = (from === "pieces" ? this.streaming(context) : context)[from];
    if (tensors === undefined) throw new NNError("INVALID_ARGUMENT", "there is no output before it is computed");
    const output = tensors[index];
    if (output === undefined) throw new NNError("INVALID_ARGUMENT", `output index ${index} is out of range: the graph has ${tensors.length}`);
    check(this.limits, "tensor_bytes", this.tensors, output.data.length);
    return output;
  }

  private add(encoding: string, data: Uint8Array<ArrayBuffer>, options: LoadOptions, brought: number): Later<number> {
    const held = [...this.graphs.values()].filter((graph) => !graph.unloaded).length;
    check(this.limits, "graphs", held, 1);
    const handle = this.loads;
    return then(this.service.load(handle, encoding, data, options), (info) => {
      this.graphs.set(handle, { info, brought, unloaded: false });
      this.brought += brought;
      return this.loads++;
    });
  }

  private graph(handle: number): Graph {
    const graph = this.graphs.get(handle);
    if (graph === undefined || graph.unloaded) throw new NNError("INVALID_ARGUMENT", `there is no graph with handle ${handle}`);
    return graph;
  }

  /** Frees a graph that no handle and no context uses. */
  private release(handle: number, graph: Graph): Later<void> {
    if (!graph.unloaded || [...this.contexts.values()].some((context) => context.graph === handle)) return;
    this.graphs.delete(handle);
    this.brought -= graph.brought;
    return this.service.unload(handle);
  }

  private streaming(context: Execution): Execution {
    if (!context.info.streams) throw new NNError("UNSUPPORTED_OPERATION", "the model does not stream: use compute and get_output");
    return context;
  }

  private live(context: Execution): void {
    if (this.graphs.get(context.graph)!.unloaded)
      throw new NNError("INVALID_ARGUMENT", "the context's graph was unloaded: its outputs can be read, and nothing else");
  }

  private ready(handle: number): Execution {
    const context = this.context(handle);
    this.live(context);
    const missing = context.info.inputs?.findIndex((_, index) => !context.inputs.has(index)) ?? -1;
    if (missing >= 0) throw new NNError("INVALID_ARGUMENT", `input ${context.info.inputs![missing]!.name} is not set`);
    return context;
  }
}

/** A config laid over the one before, in JSON. */
function overConfig(given: Uint8Array, old: Uint8Array | undefined): Uint8Array {
  const [before, after] = [old ?? new Uint8Array(), given.slice()].map((data) => parseConfig(new TextDecoder().decode(data)));
  return new TextEncoder().encode(JSON.stringify({ ...before, ...after }));
}

function checkInput(inputs: readonly TensorInfo[], index: number, type: string, dims: readonly number[]): void {
  const info = inputs[index];
  if (info === undefined) throw new NNError("INVALID_ARGUMENT", `input index ${index} is out of range: the graph has ${inputs.length}`);
  if (info.type !== type) throw new NNError("INVALID_ARGUMENT", `input ${info.name} takes ${info.type ?? "no"} tensors, not ${type}`);
  if (info.dims !== undefined && !(info.dims.length === dims.length && info.dims.every((dim, at) => dim === -1 || dim === dims[at])))
    throw new NNError("INVALID_ARGUMENT", `input ${info.name} takes dimensions [${String(info.dims)}], not [${String(dims)}]`);
}
