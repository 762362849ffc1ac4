import { NNError } from "./errors.js";

export type Config = Record<string, unknown>;

/** A config: a JSON object, or nothing. */
export function parseConfig(text: string): Config {
  if (/^[\0 \t\r\n]*$/.test(text)) return {};
  let end = text.length;
  while (text[end - 1] === "\0") end--;
  let config: unknown;
  try {
    config = JSON.parse(text.slice(0, end));
  } catch (error) {
    throw new NNError("INVALID_ENCODING", `the config is not JSON: ${(error as Error).message}`);
  }
  if (typeof config !== "object" || config === null || Array.isArray(config))
    throw new NNError("INVALID_ARGUMENT", "the config is not a JSON object");
  return config as Config;
}
