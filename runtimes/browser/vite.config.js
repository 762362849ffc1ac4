import { fileURLToPath } from "node:url";

/** What makes a page cross-origin isolated, which the bridge of two workers needs. */
const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** The example page. */
export default {
  root: fileURLToPath(new URL("example", import.meta.url)),
  base: "./",
  resolve: {
    alias: { "wasi-nn-browser": fileURLToPath(new URL("dist/index.js", import.meta.url)) },
  },
  server: { headers },
  preview: { headers },
  worker: { format: "es" },
  build: { target: "esnext", outDir: "../build", emptyOutDir: true },
};
