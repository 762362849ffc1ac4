import { fileURLToPath } from "node:url";

/** The example page. */
export default {
  root: fileURLToPath(new URL("example", import.meta.url)),
  base: "./",
  resolve: {
    alias: { "wasi-nn-browser": fileURLToPath(new URL("dist/index.js", import.meta.url)) },
  },
  worker: { format: "es" },
  build: { target: "esnext", outDir: "../build", emptyOutDir: true },
};
