import { acceleratorOf, type Accelerator } from "./accelerators.js";
import type { Context, Engine, Graph, GraphInfo, Inputs, LoadOptions, Step, Tensor } from "./engine.js";
import { NNError } from "./errors.js";

/** The engines' side: the graphs and contexts of one guest, by numbers that the caller chooses and that
 * it checks. Its methods are what crosses a bridge. */
export class Service {
  private readonly graphs = new Map<number, Graph>();
  private readonly contexts = new Map<number, Context>();

  /** `accelerator` is for all models, whatever target they are loaded for. */
  constructor(private readonly engines: Record<string, Engine>, private readonly folder = "", private readonly accelerator?: Accelerator) {}

  async load(graph: number, encoding: string, data: Uint8Array<ArrayBuffer>, options: LoadOptions): Promise<GraphInfo> {
    const engine = Object.hasOwn(this.engines, encoding) ? this.engines[encoding] : undefined;
    if (engine === undefined) throw new NNError("INVALID_ENCODING", `no engine here loads ${encoding}`);
    const accelerator = await acceleratorOf(options.target, this.accelerator);
    const loaded = await engine(data, { ...options, folder: this.folder, accelerator });
    this.graphs.set(graph, loaded);
    return { ...loaded.info, accelerator };
  }

  async compute(graph: number, context: number, inputs: Inputs): Promise<Tensor[]> {
    return this.open(graph, context).compute(inputs);
  }

  async computeSingle(graph: number, context: number, inputs: Inputs): Promise<Step> {
    return this.open(graph, context).computeSingle!(inputs);
  }

  async finiSingle(graph: number, context: number): Promise<void> {
    return this.open(graph, context).finiSingle!();
  }

  async unload(graph: number): Promise<void> {
    await this.graphs.get(graph)!.close();
    this.graphs.delete(graph);
  }

  async close(context: number): Promise<void> {
    await this.contexts.get(context)?.close?.();
    this.contexts.delete(context);
  }

  private open(graph: number, context: number): Context {
    let open = this.contexts.get(context);
    if (open === undefined) this.contexts.set(context, open = this.graphs.get(graph)!.open());
    return open;
  }
}

/** A value, or a promise of it. */
export type Later<T> = T | Promise<T>;

/** A service that answers at once, because the caller waits for another worker, or with promises. */
export type Remote = {
  [Name in keyof Service]: Service[Name] extends (...args: infer Args) => Promise<infer Result>
    ? (...args: Args) => Later<Result> : never;
};

/** Continues with a value as soon as it is there: at once, unless it is a promise. */
export function then<T, R>(value: Later<T>, next: (value: T) => Later<R>): Later<R> {
  return value instanceof Promise ? value.then(next) : next(value);
}
