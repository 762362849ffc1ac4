const PAGE = 65536;

interface Section {
  id: number;
  /** Where it starts and ends, with its number and its size. */
  start: number;
  end: number;
  content: Uint8Array;
}

/** The sections of a module that compiles. */
export function sections(bytes: Uint8Array): Section[] {
  const found = [];
  for (const reader = new Reader(bytes, 8); reader.at < bytes.length;) {
    const start = reader.at;
    const id = reader.number();
    const content = reader.take(reader.number());
    found.push({ id, start, end: reader.at, content });
  }
  return found;
}

/** The module with memories that do not grow above `limit` bytes. Throws a sentence if one starts larger. */
export function limitMemory(bytes: Uint8Array<ArrayBuffer>, limit: number): Uint8Array<ArrayBuffer> {
  const section = sections(bytes).find(({ id }) => id === 5);
  if (section === undefined) return bytes;
  const most = Math.floor(limit / PAGE);
  const reader = new Reader(section.content);
  const count = reader.number();
  const content = [...leb(count)];
  for (let memory = 0; memory < count; memory++) {
    const flags = reader.number();
    const least = reader.number();
    if (least > most) throw new Error(`the guest's memory starts with ${least * PAGE} bytes: its limit is ${limit}`);
    const own = flags & 1 ? reader.number() : most;
    content.push(...leb(flags | 1), ...leb(least), ...leb(Math.min(own, most)));
  }
  const changed = [section.id, ...leb(content.length), ...content];
  const result = new Uint8Array(bytes.length - (section.end - section.start) + changed.length);
  result.set(bytes.subarray(0, section.start));
  result.set(changed, section.start);
  result.set(bytes.subarray(section.end), section.start + changed.length);
  return result;
}

function leb(number: number): number[] {
  const bytes = [];
  for (; number >= 128; number = Math.floor(number / 128)) bytes.push((number % 128) | 128);
  return [...bytes, number];
}

/** Reads a Wasm binary. Throws RangeError at its end. */
export class Reader {
  constructor(private readonly bytes: Uint8Array, public at = 0) {}

  take(length: number): Uint8Array {
    if (this.at + length > this.bytes.length) throw new RangeError("the section ends early");
    return this.bytes.subarray(this.at, this.at += length);
  }

  /** An unsigned LEB128 number. */
  number(): number {
    for (let value = 0, factor = 1; ; factor *= 128) {
      const [byte] = this.take(1);
      value += (byte! & 0x7f) * factor;
      if (byte! < 0x80) return value;
    }
  }

  name(): string {
    return new TextDecoder().decode(this.take(this.number()));
  }
}
