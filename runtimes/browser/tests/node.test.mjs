// The same host in Node, with guests and graphs of the conformance suite.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { runGuest } from "wasi-nn-browser/node";

const bytes = (name) => new Uint8Array(readFileSync(new URL(`../../../conformance/${name}`, import.meta.url)));
const classify = bytes("guests/classify/classify.wasm");
const model = bytes("graphs/onnx/identity.onnx");
const input = new Uint8Array(new Float32Array([0.5, 4, 1, 2]).buffer);
// (module (memory (export "memory") 1) (func (export "_start") (loop br 0)))
const spin = Uint8Array.from(Buffer.from("0061736d01000000010401600000030201000503010001071302066d656d6f72790200065f737461727400000a0901070003400c000b0b", "hex"));

/** Runs a guest: its end, what it printed, and why calls failed. */
async function run(options) {
  let [out, log] = ["", ""];
  const ended = await runGuest({ module: classify, files: { "in.raw": input, "m.onnx": model }, models: { net: { data: model } }, ...options,
    onStdout: (text) => { out += text; }, onLog: (text) => { log += text; } });
  return { ...ended, out, log };
}

const JSPI = "Suspending" in WebAssembly;
for (const bridge of ["jspi", "sab"]) {
  const skip = bridge === "jspi" && !JSPI && `Node ${process.version} has no JSPI`;
  for (const from of ["name:net", "m.onnx"])
    test(`a guest computes ${from} over ${bridge}`, { skip }, async () => {
      const found = await run({ bridge, args: ["classify", from, "in.raw", "1,4", "2"] });
      assert.deepEqual([found.exitCode, found.bridge, found.out], [0, bridge, "1 4.0000\n3 2.0000\n"], found.log);
      assert.ok(found.memory > 65536);
    });

  test(`a guest that spins ends at its deadline, and by its signal, over ${bridge}`, { skip }, async () => {
    await assert.rejects(run({ bridge, module: spin, limits: { deadline: 200 } }), /did not end within 200 ms/);
    const aborted = new AbortController();
    const ended = assert.rejects(run({ bridge, module: spin, signal: aborted.signal }), /abort/i);
    aborted.abort();
    await ended;
  });
}

test("what Node does not have fails with a sentence", async () => {
  const gguf = await run({ args: ["classify", "name:net", "in.raw", "1,4"], models: { net: { encoding: "ggml", data: model } } });
  assert.match(gguf.log, /load_by_name.*no engine here loads ggml/);
  const gpu = await run({ args: ["classify", "name:net", "in.raw", "1,4"], accelerator: "webgpu" });
  assert.match(gpu.log, /unsupported_operation: webgpu was chosen, and there is no WebGPU/);
  if (!JSPI) await assert.rejects(run({ bridge: "jspi" }), /has no JSPI/);
});
