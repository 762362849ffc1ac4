import { NNError } from "./errors.js";

/** What computes a model. */
export type Accelerator = "cpu" | "webgpu" | "webnn";

/** What each execution target of wasi-nn is in a browser. */
const BY_TARGET: Record<string, Accelerator> = { cpu: "cpu", auto: "cpu", gpu: "webgpu", tpu: "webnn" };

/** What TypeScript's own declarations do not have yet. */
interface Hardware {
  gpu?: { requestAdapter(): Promise<object | null> };
  ml?: { createContext(): Promise<{ destroy?(): void }> };
}

/** Why this browser cannot compute on an accelerator, as a sentence, or nothing if it can. */
export async function missing(accelerator: Accelerator): Promise<string | undefined> {
  // (Node 20 has no navigator.)
  const { gpu, ml } = (globalThis.navigator ?? {}) as Hardware;
  try {
    if (accelerator === "webgpu" && gpu === undefined) return "there is no WebGPU here (navigator.gpu)";
    if (accelerator === "webgpu" && (await gpu!.requestAdapter()) === null) return "WebGPU finds no graphics processor here";
    if (accelerator === "webnn" && ml === undefined) return "there is no WebNN here (navigator.ml)";
    if (accelerator === "webnn") (await ml!.createContext()).destroy?.();
  } catch (error) {
    return `${accelerator === "webgpu" ? "WebGPU" : "WebNN"} does not start: ${error instanceof Error ? error.message : String(error)}`;
  }
  return undefined;
}

/** The accelerator of a model: the page's choice, or that of the execution target. It is never replaced: this
 * throws if the browser does not have it. */
export async function acceleratorOf(target: string, chosen: Accelerator | undefined): Promise<Accelerator> {
  const accelerator = chosen ?? BY_TARGET[target]!;
  const reason = await missing(accelerator);
  if (reason === undefined) return accelerator;
  const why = chosen === undefined ? `the guest's execution target ${target} needs ${accelerator}` : `${accelerator} was chosen`;
  throw new NNError("UNSUPPORTED_OPERATION", `${why}, and ${reason}: choose cpu`);
}
