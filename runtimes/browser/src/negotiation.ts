import { byteSize } from "./memory.js";
import { NNError } from "./errors.js";
import { DIALECTS, TARGETS, type Dialect } from "./tables.js";

/** The meaning of a guest's numbers while its dialect is uncertain. What means the same in every
 * candidate needs no decision. Otherwise the data decides: a tensor's length tells its element's size,
 * and a model's first bytes tell its encoding. A single candidate is not questioned. */
export class Negotiation {
  /** The candidates that fit the newest tensor, until that tensor is accepted. */
  private pending: Dialect[] | undefined;

  constructor(private candidates: Dialect[]) {}

  /** The most likely dialect so far. */
  get dialect(): Dialect {
    return this.candidates[0]!;
  }

  tensorType(number: number, dims: readonly number[], length: number): string {
    this.pending = undefined;
    const meanings = new Set(this.candidates.map((dialect) => dialect.tensorTypes[number]));
    if (meanings.size > 1) {
      const fitting = this.candidates.filter(({ tensorTypes }) =>
        tensorTypes[number] !== undefined && byteSize(tensorTypes[number]!, dims) === length);
      if (fitting.length > 0 && fitting[0] !== this.dialect) this.pending = fitting;
    }
    const type = (this.pending?.[0] ?? this.dialect).tensorTypes[number];
    if (type === undefined) throw new NNError("INVALID_ARGUMENT", `tensor type ${number} is unknown in the dialect ${this.dialect.name}`);
    return type;
  }

  /** The type of untyped bytes, whose length does not follow from the dimensions. */
  byteType(number: number): string {
    this.pending = undefined;
    return this.dialect.tensorTypes[number] ?? "U8";
  }

  /** Keeps only the candidates that fit the newest tensor: it was accepted. */
  commit(): void {
    this.candidates = this.pending ?? this.candidates;
    this.pending = undefined;
  }

  encoding(number: number, recognise: () => string | undefined): string {
    const own = this.dialect.encodings[number];
    if (this.candidates.length === 1 && own !== undefined) return own;
    const meanings = new Set(Object.values(DIALECTS)
      .filter(({ module }) => module === this.dialect.module).flatMap(({ encodings }) => encodings[number] ?? []));
    const shown = meanings.size > 1 ? recognise() : undefined;
    if (shown !== undefined && (meanings.has(shown) || meanings.has("autodetect"))) return shown;
    if (own !== undefined) return own;
    throw new NNError("INVALID_ENCODING", `graph encoding ${number} is unknown in the dialect ${this.dialect.name}`);
  }

  target(number: number): string {
    const target = TARGETS[number];
    if (target === undefined) throw new NNError("INVALID_ARGUMENT", `execution target ${number} is unknown`);
    return target;
  }
}
