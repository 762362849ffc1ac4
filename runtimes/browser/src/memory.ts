import { NNError } from "./errors.js";
import { TENSOR_TYPES } from "./tables.js";

/** A guest's memory. Pointers, lengths and counts are unsigned. The buffer may move while the guest is suspended, so nothing is kept. */
export class Memory {
  constructor(private readonly memory: WebAssembly.Memory) {}

  /** Throws unless `length` bytes at `at` are in the memory. */
  check(at: number, length: number): void {
    if (at + length > this.memory.buffer.byteLength)
      throw new NNError("INVALID_ARGUMENT", `${length} bytes at ${at} are not in the guest's memory`);
  }

  /** The bytes themselves, until the guest runs again. */
  view(at: number, length: number): Uint8Array {
    this.check(at, length);
    return new Uint8Array(this.memory.buffer, at, length);
  }

  /** A copy of the bytes. */
  read(at: number, length: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.view(at, length));
  }

  /** A string of at most `most` bytes. */
  text(at: number, length: number, what: string, most: number): string {
    if (length > most) throw new NNError("INVALID_ARGUMENT", `the ${what} has ${length} bytes, and may have ${most}`);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.read(at, length));
    } catch (error) {
      if (error instanceof NNError) throw error;
      throw new NNError("INVALID_ARGUMENT", `the ${what} is not UTF-8`);
    }
  }

  /** A few numbers: `count` is checked. */
  u32(at: number, count: number): number[] {
    const bytes = new DataView(this.read(at, 4 * count).buffer);
    return Array.from({ length: count }, (_, index) => bytes.getUint32(4 * index, true));
  }

  write(at: number, data: Uint8Array): void {
    this.check(at, data.length);
    new Uint8Array(this.memory.buffer).set(data, at);
  }

  writeU32(at: number, value: number): void {
    this.check(at, 4);
    new DataView(this.memory.buffer).setUint32(at, value, true);
  }
}

/** The bytes that a tensor takes. */
export function byteSize(type: string, dims: readonly number[]): number {
  return dims.includes(0) ? 0 : dims.reduce((product, dim) => product * dim, TENSOR_TYPES[type]!);
}
