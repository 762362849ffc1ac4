import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const module = (path) => fileURLToPath(new URL(`node_modules/${path}`, import.meta.url));
const ENGINES = [
  ...["", "_compat"].flatMap((kind) => ["js", "wasm"].map((type) => module(`@litertjs/core/wasm/litert_wasm${kind}_internal.${type}`))),
  module("@wllama/wllama/esm/wasm/wllama.wasm"),
];
/** Copies what LiteRT.js and wllama load by themselves. */
const engines = {
  name: "engines",
  generateBundle() {
    for (const path of ENGINES) this.emitFile({ type: "asset", fileName: `engines/${path.split("/").at(-1)}`, source: readFileSync(path) });
  },
};

/** What makes a page cross-origin isolated, which the bridge of two workers needs. */
const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** The example page, and that of the tests. */
export default {
  root: fileURLToPath(new URL("example", import.meta.url)),
  base: "./",
  resolve: {
    alias: { "wasi-nn-browser": fileURLToPath(new URL("dist/index.js", import.meta.url)) },
  },
  server: { headers },
  preview: { headers },
  plugins: [engines],
  worker: { format: "es" },
  build: { target: "esnext", outDir: "../build", emptyOutDir: true, rollupOptions: { input: ["index", "tests"].map((name) => `example/${name}.html`) } },
};
