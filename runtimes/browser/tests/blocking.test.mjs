// The bridge of two workers: its caller sleeps until another thread has answered.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { client } from "../dist/blocking.js";

const here = (name) => JSON.stringify(new URL(`../dist/${name}.js`, import.meta.url).href);
const ENGINES = `
  const { parentPort } = await import("node:worker_threads");
  const { server } = await import(${here("blocking")});
  const { NNError } = await import(${here("errors")});
  const answer = server({
    load: async (graph, encoding) => { throw encoding === "onnx" ? new NNError("TOO_LARGE", "why") : new RangeError(encoding); },
    compute: async (graph, context, inputs) => graph === 0 ? [...inputs.values()] : undefined,
  });
  parentPort.on("message", answer);
`;

test("values, arrays larger than the shared memory, and failures cross", async () => {
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(ENGINES)}`));
  try {
    const service = client(worker);
    const tensor = (size, type) => ({ type, dims: [size], data: new Uint8Array(size).map((_, index) => index % 251) });
    const inputs = new Map([[0, tensor(3 << 20, "U8")], [1, tensor(0, "F32")], [7, tensor(5, "I64")]]);
    assert.deepEqual(service.compute(0, 0, inputs), [...inputs.values()]);
    assert.equal(service.compute(1, 0, inputs), undefined);
    assert.deepEqual(service.compute(0, 0, new Map([[0, inputs.get(7)]])), [inputs.get(7)]);
    assert.throws(() => service.load(0, "onnx", new Uint8Array()), { code: "TOO_LARGE", message: "why" });
    assert.throws(() => service.load(0, "other", new Uint8Array()), (error) => !("code" in error) && error.message === "other");
  } finally {
    await worker.terminate();
  }
});
