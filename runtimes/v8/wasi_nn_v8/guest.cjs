// One guest in one Node.js process. V8 compiles and runs it, and node:wasi is its system. The process
// that started this one serves its other imports, over two pipes; the protocol is described in
// wasi_nn/runtime/process/_protocol.py. Nothing here knows what the imports are for.
"use strict";
const fs = require("node:fs");

const [FROM_HOST, TO_HOST, STDIN, STDOUT, STDERR] = process.argv.slice(2).map(Number);
const PREPARE = 1, LINK = 2, CALL = 3, READ = 4, WRITE = 5, RETURN = 6, TRAP = 7;
const OK = 1, FAILED = 2, HOST_CALL = 3, DATA = 4;
// The bytes at each argument that a call carries, so that structs and short strings need no READ.
const PEEK = 64;
const STREAMS = 3;
// What a host function of WASI returns to leave a call to the function here (PASS_ON, as an i32).
const PASS_ON = -1;
const NO_MEMORY = new WebAssembly.Memory({ initial: 0 });

let memory = null;
// The guest's files, if it has directories.
let files = null;
// What ends the guest. It is kept, because a guest can catch every JavaScript exception.
let ending = null;
// A terminal sends Ctrl-C to this process too, but the host decides what it means.
process.on("SIGINT", () => {});

function end(error) {
  ending = error;
  throw error;
}

class Exit extends Error {
  constructor(code) {
    super(`proc_exit(${code})`);
    this.code = code;
  }
}
class Stopped extends Error {}
class Refused extends Error {}

// Node.js reads and writes at most 2 GiB at once.
const MAX_PIECE = 1 << 30;
// If the guest's recursion leaves no stack, an exception is thrown here in the middle of a message,
// and the guest can catch it. The rest of the message could then be the guest's own bytes, read as
// the host's. So ``amid`` is set during a message, and ``asking`` during a host call. If one of them
// is already set at the start, the process ends.
let amid = false, asking = false;

function leave() {
  process.kill(process.pid, "SIGKILL");
}

function begin() {
  if (amid) leave();
  amid = true;
}

function fill(bytes) {
  for (let done = 0; done < bytes.length;) {
    const got = fs.readSync(FROM_HOST, bytes, done, Math.min(bytes.length - done, MAX_PIECE));
    if (got === 0) leave(); // The host is gone.
    done += got;
  }
  return bytes;
}

const read = (length) => fill(Buffer.allocUnsafe(length));

// A WRITE is read directly into the guest's memory.
function receive() {
  begin();
  const head = read(8);
  const kind = head.readUInt32LE(0), length = head.readUInt32LE(4);
  const body = kind === WRITE ? read(4) : read(length);
  if (kind === WRITE) fill(new Uint8Array(memory.buffer, body.readUInt32LE(0), length - 4));
  amid = false;
  return { kind, body };
}

function send(kind, ...parts) {
  begin();
  const total = parts.reduce((sum, part) => sum + part.length, 0);
  const head = Buffer.allocUnsafe(8);
  head.writeUInt32LE(kind, 0);
  head.writeUInt32LE(total, 4);
  let left = [head, ...parts];
  while (left.length) {
    let wrote = total < MAX_PIECE ? fs.writevSync(TO_HOST, left)
      : fs.writeSync(TO_HOST, left[0], 0, Math.min(left[0].length, MAX_PIECE));
    while (left.length && wrote >= left[0].length) wrote -= left.shift().length;
    if (wrote) left = [left[0].subarray(wrote), ...left.slice(1)];
  }
  amid = false;
}

const sendJson = (kind, value) => send(kind, Buffer.from(JSON.stringify(value)));

// The protocol has 32 bits for a size: a memory of 4 GiB counts as one byte smaller.
const memorySize = (without) => memory ? Math.min(memory.buffer.byteLength, 0xffffffff) : without;

function sendMemory(body) {
  send(DATA, new Uint8Array(memory.buffer, body.readUInt32LE(0), body.readUInt32LE(4)));
}

function hostFunction(index, parameters, hasResult) {
  return (...given) => {
    if (asking) leave();
    if (ending) throw ending;
    asking = true;
    const values = given.slice(0, parameters);
    const size = memorySize(0xffffffff);
    const head = Buffer.allocUnsafe(12 + 8 * values.length);
    head.writeUInt32LE(index, 0);
    head.writeUInt32LE(size, 4);
    head.writeUInt32LE(memory ? 1 : 0, 8);
    const peeks = [];
    values.forEach((value, at) => {
      const from = value >>> 0;
      const length = memory ? Math.max(0, Math.min(PEEK, size - from)) : 0;
      head.writeUInt32LE(from, 12 + 8 * at);
      head.writeUInt32LE(length, 16 + 8 * at);
      if (length) peeks.push(new Uint8Array(memory.buffer, from, length));
    });
    send(HOST_CALL, head, ...peeks);
    for (;;) {
      const { kind, body } = receive();
      if (kind === READ) {
        sendMemory(body);
      } else if (kind === RETURN) {
        asking = false;
        return hasResult ? body.readInt32LE(0) : undefined;
      } else if (kind === TRAP) {
        asking = false;
        end(new Stopped());
      } else if (kind === CALL) {
        asking = false;
        guarded(() => call(instance, JSON.parse(body)));
        asking = true;
      } else if (kind !== WRITE) {
        leave();
      }
    }
  };
}

function openFiles({ preopens, files: most }) {
  const { Files } = require("./files.cjs");
  const opened = new Files((most ?? Infinity) + STREAMS + preopens.length, () => memory ?? NO_MEMORY);
  for (const [name, path, writable] of preopens) {
    try {
      opened.preopen(name, path, writable);
    } catch ({ code }) {
      throw new Refused(code === "ENOSYS"
        ? "V8 needs a /proc that shows open files, as on Linux, to give directories to a guest"
        : `cannot open the directory ${path}: ${code}`);
    }
  }
  return opened;
}

function system(options, module) {
  const wanted = new Set(WebAssembly.Module.imports(module).map((one) => one.module));
  const modules = {};
  // Most guests have no directories, and start without these functions some milliseconds earlier.
  files = options.preopens.length ? openFiles(options) : null;
  for (const [name, version] of [["wasi_snapshot_preview1", "preview1"],
    ["wasi_unstable", "unstable"]]) {
    if (!wanted.has(name)) continue;
    const { WASI } = require("node:wasi");
    const wasi = new WASI({ version, args: options.args, env: options.env,
      stdin: STDIN, stdout: STDOUT, stderr: STDERR });
    modules[name] = { wasi, imports: { ...wasi.wasiImport,
      ...files?.imports(wasi.wasiImport, version === "unstable"),
      proc_exit: (code) => end(ending ?? new Exit(code >>> 0)) } };
  }
  return modules;
}

function instantiate(module, options) {
  const modules = system(options, module);
  const imports = {};
  for (const [name, one] of Object.entries(modules)) imports[name] = { ...one.imports };
  options.functions.forEach(({ module: name, name: field, parameters, hasResult }, index) => {
    const served = hostFunction(index, parameters, hasResult), own = modules[name]?.imports[field];
    (imports[name] ??= {})[field] = own === undefined ? served : (...values) => {
      const result = served(...values);
      return result === PASS_ON ? own(...values) : result;
    };
  });
  // A start function may call the system before the instance is there to give its memory.
  const instance = new WebAssembly.Instance(module, imports);
  const exported = instance.exports.memory;
  memory = exported instanceof WebAssembly.Memory ? exported : null;
  for (const { wasi } of Object.values(modules)) {
    // node:wasi takes its memory from what it starts; the guest itself is started by the host.
    wasi.start({ exports: { memory: memory ?? NO_MEMORY, _start() {} } });
  }
  return instance;
}

// A number of a call is sent as its eight bytes: an unsigned integer in decimal.
const CELL = new DataView(new ArrayBuffer(8));
const TYPES = { i32: "Int32", i64: "BigInt64", f32: "Float32", f64: "Float64" };

function fromRaw(raw, kind) {
  CELL.setBigUint64(0, BigInt(raw), true);
  return CELL[`get${TYPES[kind]}`](0, true);
}

function toRaw(number, kind) {
  CELL.setBigUint64(0, 0n, true);
  CELL[`set${TYPES[kind]}`](0, number, true);
  return String(CELL.getBigUint64(0, true));
}

function call(instance, { name, parameters, results, values }) {
  const given = values.map((raw, at) => fromRaw(raw, parameters[at]));
  const result = instance.exports[name](...given);
  const made = results.length === 1 ? [result] : result;
  return { results: results.map((kind, at) => toRaw(made[at], kind)) };
}

const state = () => ({ size: memorySize(0), refused: files?.refused ?? 0 });

function guarded(work) {
  const before = ending;
  ending = null;
  try {
    const answer = work() ?? {};
    if (ending) throw ending;
    sendJson(OK, { ...answer, ...state() });
  } catch (thrown) {
    const error = ending ?? thrown;
    const kind = error instanceof Exit ? "exit" : error instanceof Stopped ? "stopped"
      : error instanceof Refused ? "usage" : error instanceof WebAssembly.LinkError ? "link"
        : error instanceof WebAssembly.CompileError ? "compile" : "trap";
    const text = kind === "usage" ? error.message : `${error?.name}: ${error?.message ?? error}`;
    sendJson(FAILED, { kind, code: error?.code, text, ...state() });
  } finally {
    ending = before;
  }
}

let compiled = null, instance = null;
for (;;) {
  const { kind, body } = receive();
  if (asking) leave();
  if (kind === PREPARE && !compiled) {
    guarded(() => { compiled = new WebAssembly.Module(body); });
  } else if (kind === LINK && compiled && !instance) {
    guarded(() => { instance = instantiate(compiled, JSON.parse(body)); });
  } else if (kind === CALL && instance) {
    guarded(() => call(instance, JSON.parse(body)));
  } else if (kind === READ && memory) {
    sendMemory(body);
  } else if (kind !== WRITE) {
    leave();
  }
}
