// The bridge for a guest that cannot be suspended. Its worker sends a call to the engines' worker, and
// sleeps in Atomics.wait until the answer is in memory that both share.
import { NNError } from "./errors.js";
import type { Remote, Service } from "./service.js";

/** What both sides need of a MessagePort. */
export interface Port {
  postMessage(message: unknown): void;
}

interface Call {
  name: keyof Service;
  args: unknown[];
  /** [whether the answer is there, its bytes]. */
  control: Int32Array<SharedArrayBuffer>;
  /** Where the answer goes. One that does not fit stays until a call without a name has room for it. */
  room: SharedArrayBuffer;
}

interface Answer {
  value?: unknown;
  failure?: { code: string | undefined; message: string };
}

const ROOM = 1 << 20;

/** The service behind a port, for a caller that may block. */
export function client(port: Port): Remote {
  const control = new Int32Array(new SharedArrayBuffer(8));
  let room = new SharedArrayBuffer(ROOM);
  const ask = (call: Partial<Call>) => {
    Atomics.store(control, 0, 0);
    port.postMessage({ ...call, control, room });
    Atomics.wait(control, 0, 0);
    return control[1]!;
  };
  const call = (name: keyof Service, args: unknown[]) => {
    const size = ask({ name, args });
    if (size > room.byteLength) {
      room = new SharedArrayBuffer(size);
      ask({});
    }
    const { value, failure } = unpack(new Uint8Array(room, 0, size).slice()) as Answer;
    if (failure === undefined) return value;
    throw failure.code === undefined ? new Error(failure.message) : new NNError(failure.code, failure.message);
  };
  return new Proxy({}, { get: (_, name) => (...args: unknown[]) => call(name as keyof Service, args) }) as Remote;
}

/** What answers a client's messages, one at a time. */
export function server(service: Service): (call: Call) => Promise<void> {
  let bytes = new Uint8Array(0);
  return async ({ name, args, control, room }) => {
    if (name !== undefined) bytes = pack(await answer(service, name, args));
    if (bytes.length <= room.byteLength) new Uint8Array(room).set(bytes);
    control[1] = bytes.length;
    Atomics.store(control, 0, 1);
    Atomics.notify(control, 0);
  };
}

async function answer(service: Service, name: keyof Service, args: unknown[]): Promise<Answer> {
  try {
    return { value: await (service[name] as (...args: unknown[]) => Promise<unknown>)(...args) };
  } catch (error) {
    return { failure: { code: error instanceof NNError ? error.code : undefined, message: error instanceof Error ? error.message : String(error) } };
  }
}

/** JSON, and after it the bytes of each array that it has: [size of the JSON, JSON, bytes]. */
function pack(value: unknown): Uint8Array<ArrayBuffer> {
  const arrays: Uint8Array[] = [];
  const text = new TextEncoder().encode(JSON.stringify(value, (_, part: unknown) =>
    part instanceof Uint8Array ? (arrays.push(part), { bytes: part.length }) : part));
  const bytes = new Uint8Array(arrays.reduce((size, array) => size + array.length, 4 + text.length));
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, 4);
  let at = 4 + text.length;
  for (const array of arrays) {
    bytes.set(array, at);
    at += array.length;
  }
  return bytes;
}

function unpack(bytes: Uint8Array<ArrayBuffer>): unknown {
  let at = 4 + new DataView(bytes.buffer).getUint32(0, true);
  return JSON.parse(new TextDecoder().decode(bytes.subarray(4, at)), (_, part) => {
    if (part?.bytes === undefined) return part;
    at += part.bytes;
    return bytes.subarray(at - part.bytes, at);
  });
}
