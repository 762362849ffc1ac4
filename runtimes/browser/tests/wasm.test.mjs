// What is read of a guest's binary, and changed in it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { detectDialect } from "../dist/detection.js";
import { limitMemory } from "../dist/wasm.js";

const names = (bytes) => detectDialect(new WebAssembly.Module(bytes), bytes).map((dialect) => dialect.name).join(" ");

test("the dialects are those that the Python host detects", () => {
  const expected = JSON.parse(readFileSync(new URL("detection.json", import.meta.url)));
  for (const [module, found] of Object.entries(expected)) assert.equal(names(Buffer.from(module, "hex")), found, module);
  const guest = (name) => readFileSync(new URL(`../../../conformance/guests/${name}/${name}.wasm`, import.meta.url));
  assert.match(names(guest("classify")), /^witx /);
  assert.match(names(guest("echo")), /^wasmedge /);
  assert.equal(names(guest("interpreter-wamr")), "wamr-legacy");
  assert.equal(names(guest("hello")), "");
});

test("a memory grows to the limit, whatever maximum it has", () => {
  // (module (memory (export "m") 1 MAXIMUM))
  const module = (...limits) => Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 5, 1 + limits.length, 1, ...limits, 7, 5, 1, 1, 0x6d, 2, 0);
  const grown = async (bytes, limit) => {
    const { instance } = await WebAssembly.instantiate(limitMemory(bytes, limit));
    try {
      for (;;) instance.exports.m.grow(1);
    } catch {
      return instance.exports.m.buffer.byteLength / 65536;
    }
  };
  return Promise.all([
    [module(0, 1), 300, 300], [module(1, 1, 2), 300, 2], [module(1, 1, 0x80, 2), 200, 200], [module(1, 1, 0x80, 2), 1, 1],
  ].map(async ([bytes, pages, most]) => assert.equal(await grown(bytes, pages * 65536 + 1), most))).then(() =>
    assert.throws(() => limitMemory(module(0, 3), 2 * 65536), /starts with 196608 bytes: its limit is 131072/));
});
