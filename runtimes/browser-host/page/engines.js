// The engines of these pages, by the encodings that they load, and what they compute on.
import { onnx } from "wasi-nn-browser/onnx.js";

export const ENGINES = { onnx };
export const ACCELERATOR = "CPU (onnxruntime-web, one thread)";
