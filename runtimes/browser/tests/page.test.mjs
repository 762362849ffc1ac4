// The example page in a real Chromium, with the guests and graphs of the conformance suite.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { preview } from "vite";

const browser = process.env.CHROMIUM ?? "/usr/bin/chromium";
const missing = existsSync(browser) ? false : `there is no ${browser}: install Chromium, or name it in CHROMIUM`;
if (missing && process.env.CI) throw new Error(missing);
const suite = new URL("../../../conformance/", import.meta.url);
const path = (name) => fileURLToPath(new URL(name, suite));
const f32 = (...values) => Buffer.from(new Float32Array(values).buffer);
// (module (memory (export "memory") 1) (func (export "_start") (loop br 0)))
const SPIN = Buffer.from("0061736d01000000010401600000030201000503010001071302066d656d6f72790200065f737461727400000a0901070003400c000b0b", "hex");

let server, driver, page;
before(async () => {
  if (missing) return;
  server = await preview({ configFile: fileURLToPath(new URL("../vite.config.js", import.meta.url)), preview: { port: 0 }, logLevel: "error" });
  driver = await chromium.launch({ executablePath: browser, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
  page = await driver.newPage();
  await page.goto(server.resolvedUrls.local[0]);
});
after(async () => {
  await driver?.close();
  await server?.close();
});

/** Runs a guest as a visitor would: [the status, the output]. */
async function run(guest, files = [], args = "", deadline = 30000) {
  await page.setInputFiles("#guest", guest);
  await page.setInputFiles("#files", files);
  await page.fill("#args", args);
  await page.fill("#deadline", String(deadline));
  await page.click("#run");
  const status = page.locator("#status");
  await page.waitForFunction(() => !["", "running"].includes(document.getElementById("status").textContent), null, { timeout: 60000 });
  return [await status.textContent(), await page.locator("#out").textContent()];
}
const file = (name, buffer) => ({ name, mimeType: "application/octet-stream", buffer });
const classify = path("guests/classify/classify.wasm");

const identity = file("identity.onnx", readFileSync(path("graphs/onnx/identity.onnx")));
const input = file("input.raw", f32(0.5, 4, 1, 2));

test("a guest computes with onnx", { skip: missing }, async () => {
  assert.deepEqual(await run(classify, [identity, input], "identity.onnx input.raw 1,4 2"), ["exit 0", "1 4.0000\n3 2.0000\n"]);
});

test("a model that is none gives an errno and a sentence", { skip: missing }, async () => {
  const [status, out] = await run(classify, [file("identity.onnx", Buffer.from("no model")), input], "identity.onnx input.raw 1,4");
  assert.equal(status, "exit 1");
  assert.match(out, /^load: .*protobuf/im);
  assert.match(out, /classify: load: runtime_error/);
});

test("a guest that spins is ended at its deadline", { skip: missing }, async () => {
  assert.deepEqual(await run(file("spin.wasm", SPIN), [], "", 500), ["the guest did not end within 500 ms", ""]);
});
