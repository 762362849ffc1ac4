import { fileURLToPath } from "node:url";
import pages from "../vite.config.js";

const path = (name) => fileURLToPath(new URL(name, import.meta.url));

/** The page of `make bench-browser`, with all engines. */
export default {
  ...pages,
  root: path("."),
  resolve: {
    alias: [
      { find: /^wasi-nn-browser$/, replacement: path("../dist/index.js") },
      { find: /^wasi-nn-browser\//, replacement: path("../dist/") },
    ],
  },
  build: { target: "esnext", outDir: path("../build-bench"), emptyOutDir: true, rolldownOptions: { input: path("bench.html") } },
};
