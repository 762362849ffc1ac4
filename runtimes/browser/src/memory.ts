import { NNError } from "./errors.js";

/** A guest's memory. The buffer may move while the guest is suspended, so nothing is kept. */
export class Memory {
  constructor(private readonly memory: WebAssembly.Memory) {}

  /** Throws unless `length` bytes at `at` are in the memory. */
  check(at: number, length: number): void {
    if ((at >>> 0) + (length >>> 0) > this.memory.buffer.byteLength)
      throw new NNError("INVALID_ARGUMENT", `${length >>> 0} bytes at ${at >>> 0} are not in the guest's memory`);
  }

  /** A copy of the bytes. */
  read(at: number, length: number): Uint8Array<ArrayBuffer> {
    this.check(at, length);
    return new Uint8Array(this.memory.buffer, at >>> 0, length >>> 0).slice();
  }

  u32(at: number, count: number): number[] {
    if (count >>> 0 > 0x3fffffff) throw new NNError("INVALID_ARGUMENT", `${count >>> 0} numbers are too many`);
    const bytes = new DataView(this.read(at, 4 * (count >>> 0)).buffer);
    return Array.from({ length: count >>> 0 }, (_, index) => bytes.getUint32(4 * index, true));
  }

  write(at: number, data: Uint8Array): void {
    this.check(at, data.length);
    new Uint8Array(this.memory.buffer).set(data, at >>> 0);
  }

  writeU32(at: number, value: number): void {
    this.check(at, 4);
    new DataView(this.memory.buffer).setUint32(at >>> 0, value, true);
  }
}
