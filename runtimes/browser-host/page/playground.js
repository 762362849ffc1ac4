// The playground: files come in, a guest runs, and its output goes out.
import { ACCELERATOR } from "./engines.js";
import { inspect } from "./inspect.js";
import { play } from "./playing.js";

const $ = (id) => document.getElementById(id);
const element = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text ?? "", className: name ?? "" });
/** Each file by its name: {name, as, bytes, hidden, kind, facts, problem, encoding}. `{}` leaves out those of
 * the example, which are hidden. */
const files = new Map();
let running;
/** What `wasi-nn playground` offers besides the page; nothing on a static site. */
let offered = { files: [], magika: undefined };

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

/** Words, with quotes around those that have spaces; `{}` is every plain file. */
function words(text) {
  const plain = [...files.values()].filter((file) => file.kind === "file" && !file.hidden).map((file) => file.name);
  return [...text.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].flatMap(([, double, single, bare]) => (bare === "{}" ? plain : [double ?? single ?? bare]));
}

const calls = (times) => [...times].map(([name, { count, sum, last }]) =>
  [name, `${count} × ${(sum / count).toFixed(2)} ms on average (last ${last.toFixed(2)} ms)`]);

async function run() {
  const guest = [...files.values()].find((file) => file.kind === "guest");
  if (guest === undefined) return say("there is no guest: add a .wasm file", true);
  if (guest.problem !== undefined) return say(`${guest.name} cannot run: ${guest.problem}`, true);
  const deadline = $("deadline").valueAsNumber * 1000;
  if (!(deadline > 0)) return say("the deadline must be a number of seconds above 0", true);
  running = new AbortController();
  $("run").disabled = true;
  $("cancel").disabled = false;
  $("cancel").focus();
  for (const id of ["output", "log"]) $(id).textContent = "";
  $("log").hidden = $("log-title").hidden = true;
  say("running …");
  const begun = performance.now();
  const times = new Map();
  const facts = (bridge) => $("facts").replaceChildren(...definitions([
    ...(bridge ? [["bridge", bridge === "jspi" ? "JSPI: the guest is suspended" : "two workers: the guest's worker blocks"]] : []),
    ["accelerator", ACCELERATOR],
    ["time", `${((performance.now() - begun) / 1000).toFixed(2)} s`],
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
    const { exitCode, bridge } = await play({
      module: guest.bytes, args: [guest.name, ...words($("args").value)],
      files: Object.fromEntries(others.map((file) => [file.name, file.bytes])),
      models: Object.fromEntries(others.filter((file) => file.kind === "model").map((file) => [file.as, { encoding: file.encoding, data: file.bytes }])),
      bridge: $("bridge").value, deadline, signal: running.signal,
      onReport({ kind, text, name, ms }) {
        if (kind === "call") {
          const { count, sum } = times.get(name) ?? { count: 0, sum: 0 };
          times.set(name, { count: count + 1, sum: sum + ms, last: ms });
        }
        else if (kind === "log") { $("log").hidden = $("log-title").hidden = false; print("log", `${text}\n`); }
        else print("output", text);
      },
    });
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
const fetched = async ({ number }) => {
  const answer = await fetch(`file/${number}`, { method: "POST" });
  if (!answer.ok) throw new Error(`the server does not have it any more (${answer.status})`);
  return new Uint8Array(await answer.arrayBuffer());
};

async function tryMagika() {
  for (const one of offered.magika.files) await add(one.name, await fetched(one), one.as, true);
  $("args").value = offered.magika.args;
  const plain = [...files.values()].some((file) => file.kind === "file" && !file.hidden);
  say(plain ? "Magika is ready: run it" : "Magika is ready: add the files whose types you want to know, and run it");
  $(plain ? "run" : "choose").focus();
}

async function begin() {
  const answer = await fetch("offered", { method: "POST" }).catch(() => undefined);
  if (answer?.ok) offered = await answer.json();
  const magika = offered.magika;
  $("magika").disabled = magika?.files === undefined;
  $("magika-note").textContent = magika?.missing ?? (magika === undefined ? "`wasi-nn playground` has this example" : "");
  $("args").value = offered.args ?? "";
  for (const one of offered.files) await add(one.name, await fetched(one), one.as);
}

$("choose").onchange = async () => { await take($("choose").files); $("choose").value = ""; };
$("run").onclick = run;
$("cancel").onclick = () => running?.abort();
$("magika").onclick = () => tryMagika().catch((error) => say(`the example does not load: ${error.message}`, true));
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
