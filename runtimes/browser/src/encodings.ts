import { ONNX_SECOND_TAGS } from "./tables.js";

/** How many bytes of a model show its encoding. */
export const HEAD = 4096;

/** The encoding that a model's first bytes show. */
export function recognise(first: Uint8Array): string | undefined {
  const head = new TextDecoder("latin1").decode(first);
  if (head.startsWith("GGUF")) return "ggml";
  if (head.slice(4, 8) === "TFL3") return "tensorflowlite";
  if (head.slice(4, 8) === "ORTM") return "onnx";
  if (head.startsWith("PK\x03\x04")) return "pytorch";
  if (/^[\xef\xbb\xbf \t\r\n]*<(\?xml|net)/.test(head) && head.includes("<net")) return "openvino";
  const [tag, version, second] = first;
  return tag === 8 && version! > 0 && version! < 0x80 && ONNX_SECOND_TAGS.includes(second!) ? "onnx" : undefined;
}
