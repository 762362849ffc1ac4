import type { Accelerator } from "./accelerators.js";
import type { Config } from "./config.js";

export interface Tensor {
  /** A name of TENSOR_TYPES. */
  type: string;
  dims: number[];
  data: Uint8Array<ArrayBuffer>;
}

/** An input of a model. */
export interface TensorInfo {
  name: string;
  /** A name of TENSOR_TYPES, or nothing for a type that no guest can give. */
  type?: string;
  /** -1 takes any size. Nothing takes any dimensions. */
  dims?: number[];
}

export interface GraphInfo {
  /** The inputs by index, or nothing if the engine does not know them. */
  inputs?: TensorInfo[];
  /** Tensors are strings of bytes (prompts, text), whose length does not follow from their dimensions. */
  untypedBytes?: boolean;
  /** What computes it. */
  accelerator?: Accelerator;
  /** Its contexts have `computeSingle` and `finiSingle`. */
  streams?: boolean;
}

/** What a step of a stream gives: the newest piece, and what `get_output` gives after it. */
export interface Step {
  pieces: Tensor[];
  outputs: Tensor[];
}

export type Inputs = ReadonlyMap<number, Tensor>;

/** One execution context of a graph. */
export interface Context {
  /** The outputs, in arrays of their own. */
  compute(inputs: Inputs): Promise<Tensor[]>;
  /** Throws END_OF_SEQUENCE at the end. */
  computeSingle?(inputs: Inputs): Promise<Step>;
  finiSingle?(): Promise<void>;
  close?(): Promise<void>;
}

/** A loaded model. */
export interface Graph {
  info: GraphInfo;
  open(): Context;
  close(): Promise<void>;
}

export interface LoadOptions {
  /** A name of TARGETS. */
  target: string;
  config: Config;
}

/** Where an engine computes, and the URL of the folder where engines have files. */
export interface Place {
  accelerator: Accelerator;
  folder: string;
}

/** Loads models of one encoding. It fails if it cannot compute on the accelerator. */
export type Engine = (model: Uint8Array<ArrayBuffer>, options: LoadOptions & Place) => Promise<Graph>;
