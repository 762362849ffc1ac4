import type { Accelerator } from "./accelerators.js";
import type { GraphInfo } from "./engine.js";
import { then, type Remote } from "./service.js";

/** A call of an engine, and the milliseconds that it took. That of `load` has what the model is computed by. */
export interface Call {
  name: string;
  ms: number;
  encoding?: string;
  accelerator?: Accelerator;
}

/** The service, which also tells of each call that succeeded. */
export function measured(service: Remote, tell: (call: Call) => void): Remote {
  return new Proxy(service, {
    get: (_, name) => (...args: unknown[]) => {
      const begun = performance.now();
      const call = service[name as keyof Remote] as (...args: unknown[]) => unknown;
      return then(call.apply(service, args), (value) => {
        const ms = performance.now() - begun;
        const accelerator = name === "load" ? (value as GraphInfo).accelerator : undefined;
        tell({ name: String(name), ms, ...(accelerator && { encoding: String(args[1]), accelerator }) });
        return value;
      });
    },
  });
}
