import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const shim = "@bjorn3/browser_wasi_shim";

/** The wheel carries these packages, so it carries their licences. */
const licences = {
  name: "licences",
  generateBundle() {
    for (const [name, file] of [[shim, "LICENSE-MIT"], ["onnxruntime-web", "package.json"]]) {
      const source = readFileSync(path(`../../browser/node_modules/${name}/${file}`));
      this.emitFile({ type: "asset", fileName: `licences/${name.replace("/", "+")}/${file}`, source });
    }
  },
};

/** The pages that the Python package serves. `make browser` builds them into it. */
export default {
  root: path("."),
  base: "./",
  resolve: {
    alias: [
      { find: /^wasi-nn-browser$/, replacement: path("../../browser/dist/index.js") },
      { find: /^wasi-nn-browser\//, replacement: path("../../browser/dist/") },
      { find: /^onnxruntime-web\/(?=.*\.wasm)/, replacement: path("../../browser/node_modules/onnxruntime-web/dist/") },
      { find: shim, replacement: path(`../../browser/node_modules/${shim}`) },
    ],
  },
  plugins: [licences],
  worker: { format: "es" },
  build: {
    target: "esnext",
    outDir: path("../wasi_nn_browser/page"),
    emptyOutDir: true,
    rolldownOptions: { input: [path("guests.html"), path("playground.html")] },
  },
};
