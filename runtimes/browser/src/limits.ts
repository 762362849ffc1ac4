import { NNError } from "./errors.js";
import { LIMITS } from "./tables.js";

/** What one guest may take. The names and defaults are those of the Python host's policy. */
export interface Limits extends Record<keyof typeof LIMITS, number | null> {
  /** Milliseconds after which the guest ends. */
  deadline: number | null;
}

/** These limits, over the defaults. Throws a sentence for one that is not a limit. */
export function limitsOver(given: Partial<Limits>): Limits {
  const limits: Limits = { ...LIMITS, deadline: null };
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(limits, name)) throw new Error(`there is no limit ${name} in the browser; known: ${Object.keys(limits).join(", ")}`);
    if (value === undefined) continue;
    if (value !== null && !(typeof value === "number" && value >= 0)) throw new Error(`the limit ${name} is ${String(value)}, and must be a number or null`);
    limits[name as keyof Limits] = value;
  }
  return limits;
}

/** Throws unless `size` more are within a limit. */
export function check(limits: Limits, name: keyof typeof LIMITS, held: number, size: number): void {
  const limit = limits[name];
  if (limit !== null && held + size > limit)
    throw new NNError("RUNTIME_ERROR", `quota ${name}: the guest holds ${held}, and ${size} more are above its limit of ${limit}`);
}
