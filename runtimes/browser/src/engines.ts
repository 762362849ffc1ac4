import type { Engine } from "./engine.js";

/** The engines by encoding. Each is loaded on its first use. */
export const ENGINES: Record<string, Engine> = {
  onnx: async (...model) => (await import("./onnx.js")).onnx(...model),
  tensorflowlite: async (...model) => (await import("./litert.js")).tensorflowlite(...model),
  ggml: async (...model) => (await import("./wllama.js")).ggml(...model),
};
