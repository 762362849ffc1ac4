import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const shim = "@bjorn3/browser_wasi_shim";

/** The wheel carries these packages, so it carries their licences. */
const licences = {
  name: "licences",
  generateBundle() {
    const files = [[shim, "LICENSE-MIT"], ["onnxruntime-web", "package.json"], ["@litertjs/core", "package.json"], ["@wllama/wllama", "LICENCE"]];
    for (const [name, file] of files) {
      const source = readFileSync(path(`../../browser/node_modules/${name}/${file}`));
      this.emitFile({ type: "asset", fileName: `licences/${name.replace("/", "+")}/${file}`, source });
    }
  },
};

const packaged = (name) => path(`../../browser/node_modules/${name}`);
const out = path("../wasi_nn_browser/page/");
/** What LiteRT.js and wllama load by themselves. */
const OWN = ["@litertjs/core/wasm/litert_wasm_internal.js", "@litertjs/core/wasm/litert_wasm_internal.wasm", "@wllama/wllama/esm/wasm/wllama.wasm"];
/** What few visitors need: LiteRT.js for browsers without relaxed SIMD. */
const RARE = ["@litertjs/core/wasm/litert_wasm_compat_internal.js", "@litertjs/core/wasm/litert_wasm_compat_internal.wasm"];
/** The build of onnxruntime-web for WebGPU and WebNN. */
const LARGE = "onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.wasm";

/** Copies the engines' files. The large and the rare ones are left to `wasi-nn playground --fetch-engines`, which
 * finds in engines.json where they come from. */
const engines = {
  name: "engines",
  generateBundle() {
    for (const file of OWN) this.emitFile({ type: "asset", fileName: `engines/${file.split("/").at(-1)}`, source: readFileSync(packaged(file)) });
  },
  closeBundle() {
    const large = readdirSync(`${out}assets`).filter((name) => /asyncify.*\.wasm$/.test(name)).map((name) => [`assets/${name}`, LARGE]);
    for (const [file] of large) rmSync(out + file);
    const list = [...large, ...RARE.map((file) => [`engines/${file.split("/").at(-1)}`, file])].map(([file, from]) => {
      const bytes = readFileSync(packaged(from));
      const [, name, member] = /^((?:@[^/]+\/)?[^/]+)\/(.*)$/.exec(from);
      const { version } = JSON.parse(readFileSync(packaged(`${name}/package.json`)));
      return { file, package: name, version, member, bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") };
    });
    writeFileSync(`${out}engines.json`, `${JSON.stringify(list, undefined, 1)}\n`);
  },
};

/** The names of what is an engine's show it: a figure leaves them out. */
const output = { chunkFileNames: ({ moduleIds, name }) =>
  `assets/${moduleIds.some((id) => /node_modules\/(onnxruntime-web|@litertjs|@wllama)/.test(id)) ? "engine-" : ""}${name}-[hash].js` };

/** The pages that the Python package serves. `make browser` builds them into it. */
export default {
  root: path("."),
  base: "./",
  resolve: {
    alias: [
      { find: /^wasi-nn-browser$/, replacement: path("../../browser/dist/index.js") },
      { find: /^wasi-nn-browser\//, replacement: path("../../browser/dist/") },
      { find: /^onnxruntime-web\/(?=.*\.wasm)/, replacement: path("../../browser/node_modules/onnxruntime-web/dist/") },
      { find: shim, replacement: packaged(shim) },
    ],
  },
  plugins: [licences, engines],
  worker: { format: "es", rolldownOptions: { output } },
  build: {
    target: "esnext",
    outDir: out,
    emptyOutDir: true,
    rolldownOptions: { input: [path("guests.html"), path("playground.html")], output },
  },
};
