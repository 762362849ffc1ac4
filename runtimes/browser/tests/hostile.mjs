// A guest that makes random calls, from numbers that are right, nearly right and wrong.
import { FUNCTIONS } from "../dist/tables.js";

const PAGE = 65536;
const [NAME, TENSOR, DIMS, BUILDERS, ARRAY, DIMS_STRUCT, MODEL, DATA, FREE, ERRNOS] = [64, 100, 160, 200, 240, 280, 1024, 3072, 4096, 8192];
const EDGES = [0, 1, 2, 3, 4, 19, 20, PAGE - 20, PAGE - 4, PAGE - 1, PAGE, PAGE + 1, 0x7fffffff, -0x80000000, -4, -1];
const HANDLE = [0, 1];
/** What a call that succeeds has, for each parameter. */
const RIGHT = {
  wasi_ephemeral_nn: {
    load: [[BUILDERS], [1], [1, 5], [0], [FREE]], load_by_name: [[NAME], [1], [FREE]], load_by_name_with_config: [[NAME], [1], [0], [0], [FREE]],
    init_execution_context: [HANDLE, [FREE]], set_input: [HANDLE, [0], [TENSOR]], compute: [HANDLE], get_output: [HANDLE, [0], [FREE], [64], [FREE + 100]],
    compute_single: [HANDLE], get_output_single: [HANDLE, [0], [FREE], [64], [FREE + 100]], fini_single: [HANDLE], unload: [[3]], finalize_execution_context: [[3]],
  },
  wasi_nn: {
    load: [[ARRAY], [1, 6], [0], [FREE]], load_by_name: [[NAME], [1], [FREE]], init_execution_context: [HANDLE, [FREE]],
    set_input: [HANDLE, [0], [TENSOR]], compute: [HANDLE], get_output: [HANDLE, [0], [FREE], [FREE + 200]],
  },
};

/** [the guest, the names of the functions that it calls, in order]. It prints each errno as two letters.
 * `functions` are those that it imports, and `model` takes one f32 tensor of [1, 4]. */
export function hostileGuest(module, functions, model, calls, seed) {
  const random = (count) => (seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff, seed >> 8) % count;
  const one = (list) => list[random(list.length)];
  const names = [];
  const body = [1, 1, 0x7f];
  for (let n = 0; n < calls; n++) {
    const name = one(functions);
    const wrong = random(3) === 0;
    names.push(name);
    for (const right of RIGHT[module][name]) body.push(...constant(wrong && random(2) === 0 ? one(EDGES) : one(right)));
    body.push(0x10, functions.indexOf(name) + 1, 0x21, 0);
    // The errno's low and high four bits, as the letters A to P.
    for (const [shift, at] of [[0, 0], [4, 1]])
      body.push(...constant(ERRNOS + 2 * n + at), 0x20, 0, ...constant(shift), 0x76, ...constant(15), 0x71, ...constant(65), 0x6a, 0x3a, 0, 0);
  }
  // The calls may have written over the vector of the output, so it is written last.
  const store = (at, value) => [...constant(at), ...constant(value), 0x36, 2, 0];
  body.push(...store(0, ERRNOS), ...store(4, 2 * calls));
  body.push(...[1, 0, 1, 8].flatMap(constant), 0x10, 0, 0x1a, 0x0b);

  const u32 = (...values) => [...new Uint8Array(new Uint32Array(values).buffer)];
  const legacy = module === "wasi_nn";
  const data = [
    [NAME, [109]], [DIMS, u32(1, 4)], [BUILDERS, u32(MODEL, model.length)], [ARRAY, u32(BUILDERS, 1)], [DIMS_STRUCT, u32(DIMS, 2)],
    [TENSOR, legacy ? u32(DIMS_STRUCT, 1, DATA) : u32(DIMS, 2, 1, DATA, 16)], [MODEL, [...model]], [FREE + 200, u32(16)],
  ];
  const types = [[0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f], [0x60, 0, 0], ...functions.map((name) => {
    const count = FUNCTIONS[module][name];
    return [0x60, count, ...Array(count).fill(0x7f), 1, 0x7f];
  })];
  const imports = [["wasi_snapshot_preview1", "fd_write", 0], ...functions.map((name, index) => [module, name, index + 2])]
    .map(([from, name, type]) => [...text(from), ...text(name), 0, type]);
  const bytes = Uint8Array.from([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, types), ...section(2, imports), ...section(3, [[1]]), ...section(5, [[0, 1]]),
    ...section(7, [[...text("memory"), 2, 0], [...text("_start"), 0, functions.length + 1]]),
    ...section(10, [[...leb(body.length), ...body]]),
    ...section(11, data.map(([at, content]) => [0, ...constant(at), 0x0b, ...leb(content.length), ...content])),
  ]);
  return [bytes, names];
}

const leb = (number) => (number < 128 ? [number] : [(number % 128) | 128, ...leb(Math.floor(number / 128))]);
const text = (string) => [...leb(string.length), ...new TextEncoder().encode(string)];

/** i32.const */
function constant(number) {
  const bytes = [];
  for (;;) {
    const byte = number & 0x7f;
    number >>= 7;
    const last = number === (byte & 0x40 ? -1 : 0);
    bytes.push(last ? byte : byte | 0x80);
    if (last) return [0x41, ...bytes];
  }
}

function section(id, items) {
  const content = [...leb(items.length), ...items.flat()];
  return [id, ...leb(content.length), ...content];
}

/** How often each function gave each errno: { load: { 0: 12, 1: 30 } }. */
export function tally(names, out) {
  const counts = {};
  names.forEach((name, index) => {
    const errno = out.charCodeAt(2 * index) - 65 + 16 * (out.charCodeAt(2 * index + 1) - 65);
    counts[name] ??= {};
    counts[name][errno] = (counts[name][errno] ?? 0) + 1;
  });
  return counts;
}
