// The conformance cases on the page. The server gives each as a guest to run, and the lines that it must print.
import { runGuest } from "wasi-nn-browser";

const SIZES = { f32: 4, f64: 8 };

/** Whether an output is right: each line fits its pattern, and floats are near enough. */
function fits(out, { patterns, near }) {
  const lines = out.split("\n");
  if (lines.pop() !== "" || lines.length !== patterns.length) return false;
  return lines.every((line, index) => {
    const [, kind, tolerance] = near.find(([number]) => number === index + 1) ?? [];
    if (!(kind in SIZES)) return new RegExp(`^${patterns[index]}$`).test(line);
    const [found, wanted] = [line, patterns[index]].map((text) => floats(text.split(" ").at(-1), kind));
    return found.length === wanted.length && found.every((value, at) => Object.is(value, wanted[at]) || Math.abs(value - wanted[at]) <= tolerance);
  });
}

function floats(hex, kind) {
  const view = new DataView(Uint8Array.from(hex.match(/../g) ?? [], (byte) => parseInt(byte, 16)).buffer);
  const read = kind === "f32" ? "getFloat32" : "getFloat64";
  return Array.from({ length: Math.floor(view.byteLength / SIZES[kind]) }, (_, at) => view[read](at * SIZES[kind], true));
}

/** Runs the cases, and gives {passed, failed: [{id, why}]}. `fetched` gives a file of the server by its number. */
export async function runCases({ cases, graphs, dialect }, { fetched, bridge, signal, onProgress }) {
  const held = new Map();
  const file = (number) => {
    if (!held.has(number)) held.set(number, fetched({ number }));
    return held.get(number);
  };
  const models = {};
  for (const [name, number] of Object.entries(graphs)) models[name] = { encoding: "onnx", data: await file(number) };
  let passed = 0;
  const failed = [];
  for (const one of cases) {
    onProgress({ done: passed + failed.length, all: cases.length, passed, failed });
    let [out, log] = ["", ""];
    try {
      const { exitCode } = await runGuest({
        module: await file(one.module), args: one.args, stdin: new TextEncoder().encode(one.stdin), models, dialect, bridge, signal,
        limits: { deadline: 30000 }, onStdout: (text) => { out += text; }, onLog: (text) => { log += `${text}\n`; },
      });
      if (exitCode === one.exit && fits(out, one)) passed++;
      else failed.push({ id: one.id, why: `exit ${exitCode}\n${out}${log}` });
    } catch (error) {
      if (signal.aborted) throw error;
      failed.push({ id: one.id, why: error.message });
    }
  }
  return { passed, failed };
}
