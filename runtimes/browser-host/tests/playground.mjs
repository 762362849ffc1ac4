// The playground in a real browser, as a visitor uses it. test_playground.py serves it at PLAYGROUND.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { BROWSERS } from "../../browser/tests/browsers.mjs";

const url = process.env.PLAYGROUND;
const path = (name) => fileURLToPath(new URL(`../../../${name}`, import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "wasi-nn-playground-"));
function file(name, bytes) {
  writeFileSync(join(folder, name), bytes);
  return join(folder, name);
}
const classify = path("conformance/guests/classify/classify.wasm");
const identity = path("conformance/graphs/onnx/identity.onnx");
const input = file("input.raw", Buffer.from(new Float32Array([0.5, 4, 1, 2]).buffer));
// (module (memory (export "memory") 1) (func (export "_start") (loop br 0)))
const spin = file("spin.wasm", Buffer.from("0061736d01000000010401600000030201000503010001071302066d656d6f72790200065f737461727400000a0901070003400c000b0b", "hex"));
// (module (import "other" "thing" (func)) (func (export "_start")))
const foreign = file("foreign.wasm", Buffer.from("0061736d01000000010401600000020f01056f74686572057468696e67000003020100070a01065f737461727400010a040102000b", "hex"));

/** LiteRT.js says as errors what it does. */
const LITERT = /^(INFO|WARNING): /;
/** What Firefox's driver cannot do. */
const WITHOUT = "its driver cannot take the network away, nor emulate the dark";
const kind = process.env.PLAYGROUND_BROWSER ?? "chromium";
let browser, page;
const complaints = [];
before(async () => {
  browser = await BROWSERS[kind].launch();
  page = await browser.newPage();
  // (Firefox reports two exceptions without a text, whose source is not known yet.)
  page.on("pageerror", (error) => { if (error.message !== "uncaught exception: undefined") complaints.push(error.message); });
  page.on("console", (message) => { if (message.type() === "error" && !LITERT.test(message.text())) complaints.push(message.text()); });
  page.on("request", (request) => { if (!/^(data:|blob:)/.test(request.url()) && !request.url().startsWith(new URL(url).origin)) complaints.push(request.url()); });
  await page.setViewport({ width: 1000, height: 800 });
  await page.goto(url);
});
after(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true });
});

const text = (selector) => page.$eval(selector, (found) => found.textContent);
const says = (wanted) => page.waitForFunction((part) => document.getElementById("status").textContent.includes(part), { timeout: 60000 }, wanted);
const listed = () => page.$$eval("#list .name", (all) => all.map((one) => one.firstChild.data));
const set = (values) => page.evaluate((given) => {
  for (const [id, value] of Object.entries(given)) document.getElementById(id).value = value;
}, values);

async function choose(...files) {
  for (const one of files) {
    await (await page.$("#choose")).uploadFile(one);
    await says(basename(one));
  }
}

/** Drops files on the page, as a visitor does. */
async function drop(...files) {
  const given = files.map((one) => [basename(one), readFileSync(one).toString("base64")]);
  await page.evaluate((all) => {
    const data = new DataTransfer();
    for (const [name, text] of all) data.items.add(new File([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))], name));
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  }, given);
  await says(basename(files.at(-1)));
}

const clear = () => page.evaluate(() => { while (document.querySelector("#list button")) document.querySelector("#list button").click(); });
/** Keeps a picture of the page where SCREENSHOTS names a folder. */
const shot = (name) => process.env.SCREENSHOTS && page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`), fullPage: true });

test("what is offered on the command line is there, and runs", async () => {
  await page.waitForFunction(() => document.querySelectorAll("#list > li").length === 2);
  assert.deepEqual(await listed(), ["classify.wasm", "add.onnx"]);
  assert.match(await text("#list"), /load_by_name: net/);
  assert.equal(await page.$eval("#args", (field) => field.value), "name:net 'x y.raw' 1,4");
});

test("dropped files are inspected, and a guest computes", async () => {
  await drop(classify, identity, input);
  assert.match(await text("#list"), /dialectwitx \(or witx-2022/);
  assert.match(await text("#list"), /encodingonnx/);
  await set({ args: "identity.onnx {} 1,4 2" });
  await page.click("#run");
  await says("exit code 0");
  assert.equal(await text("#output"), "1 4.0000\n3 2.0000\n");
  assert.match(await text("#facts"), /bridgeJSPI.*acceleratorCPU, one thread \(onnxruntime-web\).*memory1.*of the guest.*load1 × .* ms.*compute1 × /);
});

test("the two workers give the same", async () => {
  await set({ bridge: "sab" });
  await page.click("#run");
  await says("running");
  await says("exit code 0");
  assert.equal(await text("#output"), "1 4.0000\n3 2.0000\n");
  assert.match(await text("#facts"), /bridgetwo workers.*acceleratorCPU.*compute1 × /);
  await set({ bridge: "auto" });
});

test("a file that is dropped twice is there once", async () => {
  const before = await listed();
  await drop(input);
  await says("input.raw was replaced");
  assert.deepEqual((await listed()).sort(), before.sort());
});

test("a model that is none gives an errno and its reason", async () => {
  await drop(file("identity.onnx", "not a model"));
  await set({ args: "identity.onnx input.raw 1,4" });
  await page.click("#run");
  await says("exit code 1");
  assert.match(await text("#log"), /^load\(.*invalid_encoding/);
  assert.match(await text("#output"), /classify: load: invalid_encoding/);
});

test("a guest that cannot run says why", async () => {
  await drop(foreign);
  assert.match(await text("#list"), /cannot runit imports other\.thing, which this page does not have/);
  assert.ok(!(await listed()).includes("classify.wasm"));
  await page.click("#run");
  await says("foreign.wasm cannot run");
  await drop(file("damaged.wasm", Buffer.from("0061736d01000000ff", "hex")));
  assert.match(await text("#list"), /cannot runit is damaged/);
});

test("a guest that spins is cancelled, or ends at its deadline, and the page stays", async () => {
  await drop(spin);
  await page.click("#run");
  await says("running");
  await page.click("#cancel");
  await says("cancelled");
  await set({ deadline: "0.3" });
  // By keyboard.
  await page.focus("#args");
  await page.keyboard.press("Enter");
  await says("did not end within 300 ms");
  await set({ deadline: "-1" });
  await page.click("#run");
  await says("the deadline must be");
});

test("after a reload the page begins again", async () => {
  await page.reload();
  await page.waitForFunction(() => document.querySelectorAll("#list > li").length === 2);
  await page.evaluate(() => { for (const one of [...document.querySelectorAll("#list button")]) document.querySelector("#list button").click(); });
  assert.deepEqual(await listed(), []);
  await page.click("#run");
  await says("there is no guest");
});

test("the example tells the types of the visitor's files", async () => {
  assert.equal(await page.$eval("#magika", (button) => button.disabled), false);
  await page.click("#magika");
  await says("Magika is ready: add");
  await choose(path("README.md"), path("pyproject.toml"));
  await page.focus("#run");
  await page.keyboard.press("Enter");
  await says("exit code 0");
  assert.match(await text("#output"), /^markdown\t.*\tREADME.md\ntoml\t.*\tpyproject.toml\n$/);
});

test("the chat talks with a model that the visitor chooses", async () => {
  await clear();
  await page.click("#chat");
  await says("the chat is ready");
  await page.evaluate(() => { for (const one of document.querySelectorAll("#list li")) if (one.textContent.includes("a model")) one.querySelector("button").click(); });
  await choose(path("conformance/graphs/ggml/tiny.gguf"));
  await set({ args: "--config '{\"temp\": 0, \"ctx-size\": 96}' {model}", stdin: "Hello" });
  await page.click("#run");
  await says("exit code 0");
  assert.ok((await text("#output")).split(" ").length > 10);
  assert.match(await text("#facts"), /acceleratorCPU, one thread \(wllama\).*computeSingle\d+ × /);
});

test("a TensorFlow Lite model computes", async () => {
  await clear();
  await drop(classify, path("conformance/graphs/tensorflowlite/identity.tflite"), input);
  await set({ args: "identity.tflite {} 1,4 1", stdin: "" });
  await page.click("#run");
  await says("exit code 0");
  assert.equal(await text("#output"), "1 4.0000\n");
  assert.match(await text("#facts"), /LiteRT\.js/);
});

test("an accelerator that is not here is refused", async () => {
  for (const [accelerator, why] of [["webgpu", "WebGPU"], ["webnn", "WebNN"]]) {
    await set({ accelerator });
    await page.click("#run");
    await page.waitForFunction((name) => new RegExp(`${name}.*choose another`).test(document.getElementById("status").textContent), {}, why);
  }
  await set({ accelerator: "" });
});

test("one click runs the conformance cases, and they can be cancelled", async () => {
  await page.click("#cases");
  await page.waitForFunction(() => /^[1-9]\d* of \d+: [1-9]/.test(document.getElementById("cases-status").textContent), { timeout: 60000 });
  await page.click("#cases-cancel");
  await page.waitForFunction(() => document.getElementById("cases-status").textContent === "cancelled");
  await page.click("#cases");
  await page.waitForFunction(() => /do not apply/.test(document.getElementById("cases-status").textContent), { timeout: 240000 });
  assert.match(await text("#cases-status"), /^1\d\d passed, 0 failed, \d+ do not apply/);
  assert.equal(await text("#cases-facts"), "");
  await shot("wide");
});

test("whatever is missing, the page says so and stays", { skip: kind === "firefox" && WITHOUT }, async () => {
  const status = async (pattern) => {
    await page.click("#run");
    await page.waitForFunction((text) => new RegExp(text).test(document.getElementById("status").textContent), { timeout: 60000 }, pattern);
  };
  const begin = async () => {
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll("#list > li").length === 2);
    await clear();
    await drop(classify, identity, input);
    await set({ args: "identity.onnx {} 1,4 1" });
  };
  // A page of its own for each: a driver waits for the workers that a page has ended. What the browser itself
  // logs here is not the page's complaint.
  const used = page;
  const fresh = async () => {
    if (page !== used) await page.close();
    page = await browser.newPage();
    await page.setCacheEnabled(false);
    await page.goto(url);
  };
  await fresh();
  await begin();
  await page.setOfflineMode(true);
  await status("a worker did not load");
  await page.click("#cases");
  await page.waitForFunction(() => document.getElementById("cases-status").textContent.includes("the server of the page does not answer"));

  await fresh();
  await page.evaluateOnNewDocument(() => {
    delete WebAssembly.Suspending;
    Object.defineProperty(globalThis, "crossOriginIsolated", { value: false });
  });
  await begin();
  await status("no JSPI.*not cross-origin isolated.*Cross-Origin-Embedder-Policy");

  await fresh();
  await begin();
  const session = await page.createCDPSession();
  await session.send("Storage.overrideQuotaForOrigin", { origin: new URL(url).origin, quotaSize: 0 });
  await status("exit code 0");
  await session.send("Storage.overrideQuotaForOrigin", { origin: new URL(url).origin });
  await page.close();
  page = used;
});

test("the page is usable at 400 pixels, in the dark and by keyboard", async () => {
  await page.setViewport({ width: 400, height: 800 });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= 400));
  await shot("narrow");
  if (kind !== "firefox") {
    const back = () => page.$eval("body", (body) => getComputedStyle(body).backgroundColor);
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
    const light = await back();
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
    assert.notEqual(await back(), light);
    await shot("dark");
  }
  const reached = [];
  await page.evaluate(() => document.activeElement.blur());
  for (let step = 0; step < 24; step++) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement.id));
  }
  for (const id of ["choose", "magika", "chat", "args", "stdin", "accelerator", "deadline", "bridge", "run", "output", "cases"]) assert.ok(reached.includes(id), `${id} of ${reached}`);
});

test("nothing came from elsewhere, and nothing was complained of", () => assert.deepEqual(complaints, []));
