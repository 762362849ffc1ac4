// Hostile numbers: every call gives an errno, and changes nothing but what it may write.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Host } from "../dist/host.js";
import { Memory } from "../dist/memory.js";
import { DIALECTS, FUNCTIONS } from "../dist/tables.js";

const PAGE = 65536;
const service = { load: () => 0, compute: (_, inputs) => [...inputs.values()] };

function hostOf(dialect, log = () => {}) {
  const host = new Host(dialect, service, { m: { encoding: "onnx", data: new Uint8Array(1) } }, log);
  host.memory = new Memory(new WebAssembly.Memory({ initial: 1 }));
  return host;
}

for (const dialect of Object.keys(DIALECTS).filter((name) => DIALECTS[name].module === "wasi_ephemeral_nn")) {
  test(`hostile numbers in ${dialect}`, async () => {
    let seed = 1;
    const random = (count) => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) % count;
    const edges = [0, 1, 2, 4, 19, 20, PAGE - 20, PAGE - 4, PAGE - 1, PAGE, PAGE + 1, 0x7fffffff, -0x80000000, -4, -1];
    const calls = hostOf(dialect).functions();
    const known = new Set([0, ...Object.values(DIALECTS[dialect].errnos)]);
    for (let n = 0; n < 3000; n++) {
      const name = Object.keys(FUNCTIONS)[random(12)];
      const args = Array.from({ length: FUNCTIONS[name] }, () => edges[random(edges.length)]);
      const errno = await calls[name](...args);
      assert.ok(known.has(errno), `${name}(${args}) gave ${errno}`);
    }
  });
}

test("a pointer out of memory is refused before the call has an effect", async () => {
  const messages = [];
  const calls = hostOf("witx", (text) => messages.push(text)).functions();
  assert.equal(await calls.load_by_name(0, 0, PAGE - 3), 1);
  assert.match(messages[0], /not in the guest's memory/);
});
