// The page of `make bench-browser`. Its server says what to measure, one thing at a time.
import { runGuest } from "wasi-nn-browser";

const post = async (name, body = "") => {
  const answer = await fetch(name, { method: "POST", body });
  if (!answer.ok) throw new Error(`the server did not take ${name}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
};
const folder = new URL("engines/", document.baseURI).href;

/** Milliseconds from the start of the navigation to the end of a guest that has printed its result. */
async function first() {
  let out = "";
  const [module, model, input] = await Promise.all(["guest", "model", "input"].map((name) => post(name)));
  const { exitCode } = await runGuest({
    module, args: ["classify", "name:net", "input.raw", "1,54", "1"], files: { "input.raw": input }, models: { net: { data: model } }, folder,
    onStdout: (text) => { out += text; },
  });
  if (exitCode !== 0 || out === "") throw new Error(`exit ${exitCode}: ${out}`);
  return performance.now();
}

async function pairs(order) {
  const [guest, model] = await Promise.all(["guest", "model"].map((name) => post(name)));
  const worker = new Worker(new URL("pairs.js", import.meta.url), { type: "module" });
  return new Promise((resolve, reject) => {
    worker.onerror = (event) => reject(new Error(event.message || "the worker did not load"));
    worker.onmessage = ({ data: { result, failure } }) => (failure === undefined ? resolve(result) : reject(new Error(failure)));
    worker.postMessage({ ...order, guest, model, folder });
  });
}

try {
  const order = JSON.parse(new TextDecoder().decode(await post("order")));
  if (order.what !== "first") {
    await post("result", JSON.stringify(await pairs(order)));
  } else {
    // Each load of the page adds its time.
    const times = [...JSON.parse(sessionStorage.getItem("times") ?? "[]"), await first()];
    sessionStorage.setItem("times", JSON.stringify(times));
    if (times.length < order.loads) location.reload();
    else await post("result", JSON.stringify(times));
  }
} catch (error) {
  await post("failed", String(error));
}
