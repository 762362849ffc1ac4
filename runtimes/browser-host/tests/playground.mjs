// The playground in a real Chromium, as a visitor uses it. test_playground.py serves it at PLAYGROUND.
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

let browser, page;
const complaints = [];
before(async () => {
  browser = await BROWSERS.chromium.launch();
  page = await browser.newPage();
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => { if (message.type() === "error") complaints.push(message.text()); });
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
  assert.match(await text("#facts"), /bridgeJSPI.*acceleratorCPU.*load1 × .* ms.*compute1 × /);
});

test("the two workers give the same", async () => {
  await set({ bridge: "sab" });
  await page.click("#run");
  await says("running");
  await says("exit code 0");
  assert.equal(await text("#output"), "1 4.0000\n3 2.0000\n");
  assert.match(await text("#facts"), /bridgetwo workers/);
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
  await says("did not end within 0.3 s");
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

test("the page is usable at 400 pixels, in the dark and by keyboard", async () => {
  await page.setViewport({ width: 400, height: 800 });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= 400));
  const back = () => page.$eval("body", (body) => getComputedStyle(body).backgroundColor);
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
  const light = await back();
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
  assert.notEqual(await back(), light);
  const reached = [];
  await page.evaluate(() => document.activeElement.blur());
  for (let step = 0; step < 14; step++) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement.id));
  }
  for (const id of ["choose", "magika", "args", "deadline", "bridge", "run", "output"]) assert.ok(reached.includes(id), `${id} of ${reached}`);
});

test("nothing came from elsewhere, and nothing was complained of", () => assert.deepEqual(complaints, []));
