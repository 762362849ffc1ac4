// The playground: files come in, a guest runs, and its output goes out.
import { runGuest } from "wasi-nn-browser";
import { missing } from "wasi-nn-browser/accelerators.js";
import { runCases } from "./conformance.js";
import { ENGINES, inspect } from "./inspect.js";

const $ = (id) => document.getElementById(id);
const element = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text ?? "", className: name ?? "" });
/** Each file by its name: {name, as, bytes, hidden, kind, facts, problem, encoding}. `{}` leaves out those of
 * the example, which are hidden. */
const files = new Map();
let running;
/** What `wasi-nn playground` offers besides the page; nothing on a static site. `absent` are engines' files. */
let offered = { files: [], examples: {}, absent: [] };
const ACCELERATORS = { cpu: "CPU, one thread", webgpu: "WebGPU", webnn: "WebNN" };

async function add(name, bytes, as, hidden = false) {
  const again = files.has(name);
  files.set(name, { name, as: as ?? name.replace(/\.[^.]*$/, ""), bytes, hidden, ...(await inspect(bytes)) });
  if (files.get(name).kind === "guest")
    for (const other of [...files.values()]) if (other.kind === "guest" && other.name !== name) files.delete(other.name);
  show();
  say(again ? `${name} was replaced` : `${name} was added`);
}

async function take(list) {
  for (const file of list) {
    try {
      await add(file.name, new Uint8Array(await file.arrayBuffer()));
    } catch (error) {
      say(`${file.name} cannot be read: ${error.message}`, true);
    }
  }
}

function show() {
  $("list").replaceChildren(...[...files.values()].map((file) => {
    const item = element("li");
    const name = element("span", file.name, "name");
    const what = file.kind === "model" ? `, a model; load_by_name: ${file.as}` : file.kind === "guest" ? ", the guest" : "";
    const whose = file.hidden ? ", of the example" : "";
    name.append(element("span", ` (${size(file.bytes.length)}${what}${whose})`, "what"));
    const facts = [...file.facts, ...(file.problem ? [["cannot run", file.problem, "bad"]] : [])];
    const remove = element("button", "Remove");
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    remove.onclick = () => { files.delete(file.name); show(); say(`${file.name} was removed`); $("choose").focus(); };
    item.append(name, remove, ...(facts.length > 0 ? [definitions(facts)] : []));
    return item;
  }));
}

function definitions(facts) {
  const list = element("dl");
  for (const [title, text, name] of facts) list.append(element("dt", title), element("dd", text, name));
  return list;
}

const size = (bytes) => (bytes < 1024 ? `${bytes} bytes` : bytes < 1 << 20 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`);

function say(text, bad) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

/** Words, with quotes around those that have spaces; `{}` is every plain file, and `{model}` the first model. */
function words(text) {
  const model = [...files.values()].find((file) => file.kind === "model")?.as;
  const plain = [...files.values()].filter((file) => file.kind === "file" && !file.hidden).map((file) => file.name);
  return [...text.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].flatMap(([, double, single, bare]) => (bare === "{}" ? plain : bare === "{model}" && model !== undefined ? [model] : [double ?? single ?? bare]));
}

const calls = (times) => [...times].map(([name, { count, sum, last }]) =>
  [name, `${count} × ${(sum / count).toFixed(2)} ms on average (last ${last.toFixed(2)} ms)`]);

async function run() {
  const guest = [...files.values()].find((file) => file.kind === "guest");
  if (guest === undefined) return say("there is no guest: add a .wasm file", true);
  if (guest.problem !== undefined) return say(`${guest.name} cannot run: ${guest.problem}`, true);
  const deadline = $("deadline").valueAsNumber * 1000;
  if (!(deadline > 0)) return say("the deadline must be a number of seconds above 0", true);
  const accelerator = $("accelerator").value || undefined;
  const refused = accelerator && await refusal(accelerator);
  if (refused) return say(`${refused}: choose another accelerator`, true);
  if (running !== undefined) return;
  running = new AbortController();
  $("run").disabled = true;
  $("cancel").disabled = false;
  $("cancel").focus();
  for (const id of ["output", "log"]) $(id).textContent = "";
  $("log").hidden = $("log-title").hidden = true;
  say("running …");
  const begun = performance.now();
  const times = new Map();
  const engines = new Set();
  let held = 0;
  const facts = (bridge) => $("facts").replaceChildren(...definitions([
    ...(bridge ? [["bridge", bridge === "jspi" ? "JSPI: the guest is suspended" : "two workers: the guest's worker blocks"]] : []),
    ...(engines.size > 0 ? [["accelerator", [...engines].join("; ")]] : []),
    ["time", `${((performance.now() - begun) / 1000).toFixed(2)} s`],
    ...(held > 0 ? [["memory", `${size(held)} of the guest, and ${size([...files.values()].reduce((sum, file) => sum + (file.kind === "model" ? file.bytes.length : 0), 0))} of models`]] : []),
    ...calls(times),
  ]).childNodes);
  const print = (id, text) => {
    const end = $(id).scrollTop + $(id).clientHeight >= $(id).scrollHeight - 4;
    $(id).append(text);
    if (end) $(id).scrollTop = $(id).scrollHeight;
  };
  facts();
  const clock = setInterval(() => facts(), 250);
  try {
    const others = [...files.values()].filter((file) => file.kind !== "guest");
    const { exitCode, bridge, memory } = await runGuest({
      module: guest.bytes, args: [guest.name, ...words($("args").value)], stdin: new TextEncoder().encode($("stdin").value && `${$("stdin").value}\n`),
      files: Object.fromEntries(others.map((file) => [file.name, file.bytes])),
      models: Object.fromEntries(others.filter((file) => file.kind === "model").map((file) => [file.as, { encoding: file.encoding, data: file.bytes }])),
      folder: "engines/", accelerator, bridge: $("bridge").value, limits: { deadline }, signal: running.signal,
      onCall({ name, ms, memory: bytes, encoding, accelerator: used }) {
        const { count, sum } = times.get(name) ?? { count: 0, sum: 0 };
        times.set(name, { count: count + 1, sum: sum + ms, last: ms });
        if (used) engines.add(`${ACCELERATORS[used]} (${ENGINES[encoding]})`);
        held = bytes;
      },
      onLog(text) { $("log").hidden = $("log-title").hidden = false; print("log", `${text}\n`); },
      onStdout: (text) => print("output", text), onStderr: (text) => print("output", text),
    });
    held = memory;
    clearInterval(clock);
    facts(bridge);
    say(`the guest ended with exit code ${exitCode}`, exitCode !== 0);
  } catch (error) {
    facts();
    say(error.name === "AbortError" ? "cancelled" : error.message, error.name !== "AbortError");
  } finally {
    clearInterval(clock);
    running = undefined;
    $("run").disabled = false;
    $("cancel").disabled = true;
    $("run").focus();
  }
}

/** A file of `wasi-nn playground`. */
const fetched = async ({ number }) => new Uint8Array(await (await posted(`file/${number}`)).arrayBuffer());

async function posted(name) {
  const answer = await fetch(name, { method: "POST" }).catch(() => { throw new Error("the server of the page does not answer: start wasi-nn playground again"); });
  if (!answer.ok) throw new Error(`the server does not have ${name} any more (${answer.status})`);
  return answer;
}

/** Why an accelerator cannot be used, or nothing. */
async function refusal(accelerator) {
  const reason = await missing(accelerator);
  if (reason !== undefined || accelerator === "cpu") return reason;
  const models = [...files.values()].filter((file) => file.kind === "model");
  const other = models.find((file) => file.encoding !== "onnx");
  if (other !== undefined) return `${other.name} is computed on the CPU alone`;
  return models.length > 0 && offered.absent.some((file) => file.includes("asyncify")) ? "onnxruntime-web's build for it is not here (run wasi-nn playground --fetch-engines)" : undefined;
}

/** Loads an example. `wanted` is the kind of file that the visitor gives it. */
async function tryExample(name, wanted, ready, lacking) {
  const example = offered.examples[name];
  for (const one of example.files) await add(one.name, await fetched(one), one.as, true);
  $("args").value = example.args;
  $("stdin").value = example.stdin ?? "";
  const there = [...files.values()].some((file) => file.kind === wanted && (wanted === "model" || !file.hidden));
  say(there ? ready : lacking);
  $(there ? "run" : "choose").focus();
}

let casing;
async function runConformance() {
  casing = new AbortController();
  const status = (text, bad) => { $("cases-status").textContent = text; $("cases-status").className = bad ? "bad" : ""; };
  const failures = (failed) => $("cases-facts").replaceChildren(...definitions(failed.map(({ id, why }) => [id, why, "bad"])).childNodes);
  $("cases").disabled = true;
  $("cases-cancel").disabled = false;
  $("cases-cancel").focus();
  $("cases-progress").hidden = false;
  $("cases-progress").removeAttribute("value");
  status("running …");
  failures([]);
  const begun = performance.now();
  try {
    const given = await (await posted("conformance")).json();
    const { passed, failed } = await runCases(given, { fetched, bridge: $("bridge").value, signal: casing.signal,
      onProgress({ done, all, passed: right, failed: wrong }) {
        Object.assign($("cases-progress"), { value: done, max: all });
        status(`${done} of ${all}: ${right} passed, ${wrong.length} failed`);
      } });
    status(`${passed} passed, ${failed.length} failed, ${given.left} do not apply to the page; ${((performance.now() - begun) / 1000).toFixed(1)} s`, failed.length > 0);
    failures(failed);
  } catch (error) {
    status(error.name === "AbortError" ? "cancelled" : `the cases do not run: ${error.message}`, error.name !== "AbortError");
  } finally {
    $("cases").disabled = false;
    $("cases-cancel").disabled = true;
    $("cases-progress").hidden = true;
    $("cases").focus();
  }
}

async function begin() {
  const answer = await fetch("offered", { method: "POST" }).catch(() => undefined);
  const served = answer?.ok === true;
  if (served) offered = await answer.json();
  for (const name of ["magika", "chat"]) {
    const example = offered.examples[name];
    $(name).disabled = example?.files === undefined;
    $(`${name}-note`).textContent = example?.missing ?? example?.note ?? (example === undefined ? "`wasi-nn playground` has this example" : "");
  }
  $("cases").disabled = offered.cases !== true;
  if (!served) $("cases-status").textContent = "`wasi-nn playground` has the cases";
  $("args").value = offered.args ?? "";
  for (const one of offered.files) await add(one.name, await fetched(one), one.as);
  const absent = (await Promise.all(["webgpu", "webnn"].map(missing))).filter((reason) => reason !== undefined);
  $("accelerator-note").textContent = [...absent, ...(offered.absent.length > 0 ? ["`wasi-nn playground --fetch-engines` gets the engines' larger builds"] : [])].join("; ");
}

$("choose").onchange = async () => { await take($("choose").files); $("choose").value = ""; };
$("run").onclick = run;
$("cancel").onclick = () => running?.abort();
const failing = (error) => say(`the example does not load: ${error.message}`, true);
$("magika").onclick = () => tryExample("magika", "file", "Magika is ready: run it", "Magika is ready: add the files whose types you want to know, and run it").catch(failing);
$("chat").onclick = () => tryExample("chat", "model", "the chat is ready: write what you say into the standard input, and run it", "the chat is ready: add a language model (.gguf), and run it").catch(failing);
$("cases").onclick = runConformance;
$("cases-cancel").onclick = () => casing?.abort();
$("args").onkeydown = (event) => {
  if (event.key !== "Enter") return;
  // The button that gets the focus would take the key too.
  event.preventDefault();
  if (running === undefined) run();
};
// A file that misses the field would replace the page.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
document.addEventListener("dragover", () => $("drop").classList.add("over"));
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => { $("drop").classList.remove("over"); return take([...event.dataTransfer.files]); });
begin().catch((error) => say(error.message, true));
