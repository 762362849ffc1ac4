import type { Engine, Graph, Tensor } from "./engine.js";
import { NNError } from "./errors.js";

/** The engines' side: the graphs of one guest, by number. Its methods are what crosses a bridge. */
export class Service {
  private readonly graphs: Graph[] = [];

  constructor(private readonly engines: Record<string, Engine>) {}

  async load(encoding: string, data: Uint8Array<ArrayBuffer>): Promise<number> {
    const engine = Object.hasOwn(this.engines, encoding) ? this.engines[encoding] : undefined;
    if (engine === undefined) throw new NNError("INVALID_ENCODING", `no engine here loads ${encoding}`);
    return this.graphs.push(await engine(data)) - 1;
  }

  compute(graph: number, inputs: ReadonlyMap<number, Tensor>): Promise<Tensor[]> {
    return this.graphs[graph]!.compute(inputs);
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
export function then<T, R>(value: Later<T>, next: (value: T) => R): Later<R> {
  return value instanceof Promise ? value.then(next) : next(value);
}
