// A thread of Node's host: of a guest, or of its engines where the guest cannot be suspended.
import { parentPort, workerData } from "node:worker_threads";
import type { Engine } from "./engine.js";
import { NNError } from "./errors.js";
import { onnxWith, type Library } from "./onnx.js";
import { serveEngines, serveGuest, type EnginesMessage, type GuestMessage } from "./serving.js";

/** An optional package, which has no declarations where it is not installed. */
const NATIVE: string = "onnxruntime-node";
const ENGINES: Record<string, Engine> = {
  async onnx(model) {
    const native = await (import(NATIVE) as Promise<{ default: Library }>).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ERR_MODULE_NOT_FOUND") return undefined;
      throw new NNError("RUNTIME_ERROR", `onnxruntime-node did not load: ${error.message}`);
    });
    return native === undefined ? onnxWith(import("onnxruntime-web/wasm"), "wasm", model) : onnxWith(Promise.resolve(native.default), "cpu", model);
  },
};

parentPort!.once("message", (message: unknown) => {
  if (workerData === "guest") void serveGuest(message as GuestMessage, ENGINES, (report) => parentPort!.postMessage(report));
  else serveEngines(message as EnginesMessage, ENGINES);
});
