// The example page in real browsers, as a visitor uses it, with guests and graphs of the conformance suite.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { DIALECTS } from "../dist/tables.js";
import { BROWSERS, serve } from "./browsers.mjs";
import { hostileGuest, tally } from "./hostile.mjs";

const path = (name) => fileURLToPath(new URL(`../../../conformance/${name}`, import.meta.url));
const f32 = (...values) => Buffer.from(new Float32Array(values).buffer);
const folder = mkdtempSync(join(tmpdir(), "wasi-nn-page-"));
after(() => rmSync(folder, { recursive: true }));
function file(name, bytes) {
  writeFileSync(join(folder, name), bytes);
  return join(folder, name);
}
const classify = path("guests/classify/classify.wasm");
const identity = path("graphs/onnx/identity.onnx");
const input = file("input.raw", f32(0.5, 4, 1, 2));
const noModel = file("none.onnx", "no model");
const damaged = file("damaged.onnx", readFileSync(identity).subarray(0, 40));
// (module (memory (export "memory") 1) (func (export "_start") (loop br 0)))
const spin = file("spin.wasm", Buffer.from("0061736d01000000010401600000030201000503010001071302066d656d6f72790200065f737461727400000a0901070003400c000b0b", "hex"));
// (module)
const empty = file("empty.wasm", Buffer.from("0061736d01000000", "hex"));
const noGuest = file("none.wasm", "no guest");

const model = readFileSync(identity);
const STREAMING = ["compute_single", "get_output_single", "fini_single"];
const CORE = ["load", "load_by_name", "init_execution_context", "set_input", "compute", "get_output"];
/** Guests by their dialect. (Each gives back handles that it does not have yet, so all stay open.) */
const HOSTILE = [
  ["witx", "wasi_ephemeral_nn", CORE],
  ["wasmedge", "wasi_ephemeral_nn", [...CORE, ...STREAMING, "load_by_name_with_config", "unload", "finalize_execution_context"]],
  ["wamr-legacy", "wasi_nn", CORE],
];

/** What the language model says, in every browser and over every bridge. */
let answer;

/** Runs a guest: [the status, the output]. */
async function run(page, bridge, guest, files = [], args = "", deadline = 30000, models = []) {
  const upload = async (selector, ...paths) => (await page.$(selector)).uploadFile(...paths);
  await upload("#guest", guest);
  await upload("#files", ...files);
  await upload("#models", ...models);
  await page.evaluate((values) => {
    for (const [id, value] of Object.entries(values)) document.getElementById(id).value = value;
  }, { args, bridge, deadline: String(deadline) });
  await page.click("#run");
  await page.waitForFunction(() => !["", "running"].includes(document.getElementById("status").textContent), { timeout: 60000 });
  return page.evaluate(() => [document.getElementById("status").textContent, document.getElementById("out").textContent]);
}

for (const [name, { missing, launch }] of Object.entries(BROWSERS)) {
  describe(name, { skip: missing }, () => {
    let server, bare, browser, page;
    before(async () => {
      [server, bare, browser] = await Promise.all([serve(), serve({}), launch()]);
      page = await browser.newPage();
      await page.goto(server.resolvedUrls.local[0]);
    });
    after(async () => {
      await browser?.close();
      await server?.close();
      await bare?.close();
    });

    for (const bridge of ["jspi", "sab"]) {
      test(`a guest computes with onnx over ${bridge}`, async () => {
        const found = await run(page, bridge, classify, [identity, input], "identity.onnx input.raw 1,4 2");
        assert.deepEqual(found, [`exit 0 (${bridge})`, "1 4.0000\n3 2.0000\n"]);
      });

      test(`a guest computes with tensorflowlite over ${bridge}`, async () => {
        const found = await run(page, bridge, classify, [path("graphs/tensorflowlite/identity.tflite"), input], "identity.tflite input.raw 1,4 2");
        assert.deepEqual(found, [`exit 0 (${bridge})`, "1 4.0000\n3 2.0000\n"]);
      });

      test(`a guest talks with a language model over ${bridge}`, async () => {
        await page.goto(`${server.resolvedUrls.local[0]}tests.html`);
        try {
          const order = {
            bridge, module: "conformance/guests/chat/chat.wasm", args: ["chat", "--config", '{"temp": 0}'], stdin: "Hello\nAnd you?\n",
            models: { default: { data: "conformance/graphs/ggml/tiny.gguf", config: { "ctx-size": 96 } } },
          };
          const found = await page.evaluate((each) => run(each), order);
          assert.equal(found.exitCode, 0);
          assert.ok(found.out.split(" ").length > 10, found.out);
          assert.equal(found.out, answer ??= found.out);
          assert.match(found.log, /^compute_single\(0\) -> 101 context_full: .*\n.*\ncompute_single\(0\) -> 102 prompt_too_long: /);
        } finally {
          await page.goto(server.resolvedUrls.local[0]);
        }
      });

      test(`a model that is none gives an errno and a sentence over ${bridge}`, async () => {
        const [status, out] = await run(page, bridge, classify, [noModel, input], "none.onnx input.raw 1,4");
        assert.equal(status, `exit 1 (${bridge})`);
        assert.match(out, /^load\(.*\) -> 2 invalid_encoding: autodetect does not recognise the model\nclassify: load: invalid_encoding/);
        assert.match((await run(page, bridge, classify, [damaged, input], "damaged.onnx input.raw 1,4"))[1],
          /^load\(.*\) -> 5 runtime_error: .*protobuf.*\nclassify: load: runtime_error/i);
      });

      test(`a guest that spins is ended at its deadline over ${bridge}`, async () => {
        assert.deepEqual(await run(page, bridge, spin, [], "", 500), ["the guest did not end within 500 ms", ""]);
      });

      test(`what is not a guest is refused over ${bridge}`, async () => {
        assert.match((await run(page, bridge, noGuest))[0], /the guest is not a WebAssembly module/);
        assert.match((await run(page, bridge, empty))[0], /it exports no _start/);
      });

      for (const [dialect, module, functions] of HOSTILE)
        test(`hostile numbers of a ${dialect} guest over ${bridge}`, async () => {
          const calls = 240;
          const [bytes, names] = hostileGuest(module, functions, model, calls, 7);
          const [status, out] = await run(page, bridge, file("hostile.wasm", bytes), [], "", 60000, [file("m.onnx", model)]);
          assert.equal(status, `exit 0 (${bridge})`);
          const known = new Set([0, ...Object.values(DIALECTS[dialect].errnos)]);
          const counts = tally(names, /^[A-P]+$/m.exec(out)[0]);
          for (const [name, errnos] of Object.entries(counts)) {
            assert.ok(Object.keys(errnos).every((errno) => known.has(Number(errno))), `${name}: ${JSON.stringify(errnos)}`);
            assert.equal(errnos[0] > 0, !STREAMING.includes(name), `${name}: ${JSON.stringify(errnos)}`);
          }
        });
    }

    test("a page that is not isolated runs guests over jspi", async () => {
      await page.goto(bare.resolvedUrls.local[0]);
      const found = await run(page, "auto", classify, [identity, input], "identity.onnx input.raw 1,4 1");
      assert.deepEqual(found, ["exit 0 (jspi)", "1 4.0000\n"]);
      const [status] = await run(page, "sab", classify);
      assert.match(status, /not cross-origin isolated.*Cross-Origin-Opener-Policy: same-origin.*Cross-Origin-Embedder-Policy: require-corp/);
      assert.doesNotMatch(status, /JSPI/);
    });

    for (const [bridge, what, status, out] of [
      ["jspi", /worker/, /^a worker did not load/, /^$/],
      ["sab", /engines-worker/, /^a worker did not load/, /^$/],
      ["jspi", /ort.*js/, /^exit 1/, /load.* runtime_error: onnxruntime-web did not load: /],
      ["sab", /ort.*wasm/, /^exit 1/, /load.* runtime_error: .*wasm/],
    ])
      test(`without its ${what.source} a guest over ${bridge} ends with a sentence`, async () => {
        await page.setCacheEnabled(false);
        await page.goto(server.resolvedUrls.local[0]);
        server.deny(what);
        try {
          const found = await run(page, bridge, classify, [identity, input], "identity.onnx input.raw 1,4 1");
          assert.match(found[0], status);
          assert.match(found[1], out);
        } finally {
          server.deny();
        }
      });

    test("a browser without JSPI takes the other bridge, and without both it says why", async () => {
      await page.evaluateOnNewDocument(() => { delete WebAssembly.Suspending; });
      await page.goto(server.resolvedUrls.local[0]);
      const found = await run(page, "auto", classify, [identity, input], "identity.onnx input.raw 1,4 1");
      assert.deepEqual(found, ["exit 0 (sab)", "1 4.0000\n"]);
      await page.goto(bare.resolvedUrls.local[0]);
      const [status, out] = await run(page, "auto", classify, [identity, input], "identity.onnx input.raw 1,4 1");
      assert.match(status, /no JSPI.*not cross-origin isolated.*same-origin.*require-corp \(or credentialless\)/);
      assert.equal(out, "");
    });
  });
}
