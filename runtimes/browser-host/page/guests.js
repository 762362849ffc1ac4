// The page in which a Python host runs guests: a worker for each. It takes its orders from the server
// that it came from, which waits for a moment if there are none.
import engine from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";

const guests = new Map();
// As long as a page holds the engine's code, the browser does not compile it again for each guest.
let held;

function carryOut({ guest, command }) {
  let worker = guests.get(guest);
  if (command.do === "end") {
    worker?.terminate();
    guests.delete(guest);
    return;
  }
  if (worker === undefined) {
    worker = new Worker(new URL("guest.js", import.meta.url), { type: "module" });
    worker.onerror = (event) => {
      const text = event.message || "its worker did not load";
      fetch(`guest/${guest}/done`, { method: "POST", body: JSON.stringify({ kind: "trap", text }) });
    };
    guests.set(guest, worker);
    if (command.computes) held ??= WebAssembly.compileStreaming(fetch(engine));
  }
  worker.postMessage({ guest, command });
}

for (;;) {
  const answer = await fetch("orders", { method: "POST" });
  if (!answer.ok) break;
  (await answer.json()).forEach(carryOut);
}
