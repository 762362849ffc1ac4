export interface Tensor {
  /** A name of TENSOR_TYPES. */
  type: string;
  dims: number[];
  data: Uint8Array<ArrayBuffer>;
}

/** A loaded model. */
export interface Graph {
  compute(inputs: ReadonlyMap<number, Tensor>): Promise<Tensor[]>;
}

/** Loads models of one encoding. */
export type Engine = (model: Uint8Array<ArrayBuffer>) => Promise<Graph>;
