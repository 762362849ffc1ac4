import type { Wllama } from "@wllama/wllama";
import type { Config } from "./config.js";
import type { Context, Engine, Inputs, Tensor } from "./engine.js";
import { loaded, NNError } from "./errors.js";

/** The keys of WasmEdge's config, by the library's names: of a model, and of a text. */
const MODEL_KEYS: Record<string, string> = { "ctx-size": "n_ctx", "batch-size": "n_batch", "ubatch-size": "n_ubatch", seed: "seed" };
const TEXT_KEYS: Record<string, string> = {
  temp: "temperature", "top-k": "top_k", "top-p": "top_p", "min-p": "min_p", "typ-p": "typical_p", seed: "seed",
  "repeat-penalty": "repeat_penalty", "presence-penalty": "presence_penalty", "frequency-penalty": "frequency_penalty",
  "last-n-penalty": "repeat_last_n", mirostat: "mirostat", "mirostat-eta": "mirostat_eta", "ignore-eos": "ignore_eos", grammar: "grammar",
};
const SILENT = { debug() {}, log() {}, warn() {}, error() {} };

/** What the library streams, for a prompt and for a conversation. */
interface Chunk {
  choices: { text?: string; delta?: { content?: string | null }; finish_reason: string | null }[];
  usage?: { prompt_tokens: number; completion_tokens: number } | null;
}

/** GGUF language models through wllama, which is loaded on the first use, with one thread. Inputs and
 * outputs are those of WasmEdge: 0 is the prompt, and then the text; 1 is the config, and then metadata. */
export const ggml: Engine = async (model, { folder, config, accelerator }) => {
  // With WebGPU asked for, the library may compute on the CPU, and does not tell.
  if (accelerator !== "cpu") throw new NNError("UNSUPPORTED_OPERATION", `language models are not computed on ${accelerator} here: choose cpu`);
  const { Wllama } = await loaded("@wllama/wllama", import("@wllama/wllama"));
  const llama = new Wllama({ default: `${folder}wllama.wasm` }, { suppressNativeLog: true, logger: SILENT });
  const options = { n_gpu_layers: 0, n_threads: 1, n_parallel: 1, warmup: false, ...renamed(config, MODEL_KEYS) };
  await llama.loadModel([new Blob([model])], options);
  const [build, commit] = Wllama.getLibllamaVersion().slice(1).split("-");
  const versions = { llama_build_number: Number(build), llama_commit: commit };
  return { info: { untypedBytes: true, streams: true }, open: () => new Text(llama, config, versions), close: () => llama.exit() };
};

class Text implements Context {
  private chunks: AsyncIterator<Chunk> | undefined;
  private stop = new AbortController();
  private text = "";
  /** Why the text ended. */
  private reason: string | null = null;
  private tokens = { input_tokens: 0, output_tokens: 0 };

  constructor(private readonly llama: Wllama, private readonly config: Config, private readonly versions: object) {}

  async compute(inputs: Inputs): Promise<Tensor[]> {
    await this.begin(inputs, true);
    while ((await this.next()) !== undefined);
    this.chunks = undefined;
    return this.outputs();
  }

  async computeSingle(inputs: Inputs): Promise<{ pieces: Tensor[]; outputs: Tensor[] }> {
    if (this.chunks === undefined) await this.begin(inputs, false);
    const piece = await this.next();
    if (piece === undefined && this.reason === "length") throw new NNError("CONTEXT_FULL", "the context is full (config ctx-size)");
    if (piece === undefined) throw new NNError("END_OF_SEQUENCE", "the text has ended");
    return { pieces: [bytes(piece)], outputs: this.outputs() };
  }

  async finiSingle(): Promise<void> {
    this.stop.abort();
    await this.chunks?.return?.().catch(() => {});
    this.chunks = undefined;
  }

  close(): Promise<void> {
    return this.finiSingle();
  }

  /** Begins a text. Only a whole one counts its tokens and looks for the reverse prompt. */
  private async begin(inputs: Inputs, whole: boolean): Promise<void> {
    await this.finiSingle();
    const prompt = inputs.get(0);
    if (prompt === undefined) throw new NNError("INVALID_ARGUMENT", "input 0, the prompt, is not set");
    const config = { ...this.config, ...JSON.parse(decode(inputs.get(1) ?? bytes("{}"))) as Config };
    this.stop = new AbortController();
    this.text = "";
    this.reason = null;
    this.tokens = { input_tokens: 0, output_tokens: 0 };
    const options = {
      stream: true as const, stream_options: { include_usage: true }, abortSignal: this.stop.signal, ...renamed(config, TEXT_KEYS),
      ...(whole && config["n-predict"] !== undefined && { max_tokens: config["n-predict"] as number }),
      ...(whole && config["reverse-prompt"] !== undefined && { stop: config["reverse-prompt"] as string }),
    };
    const chunks = config["enable-chat-template"] === true
      ? await this.llama.createChatCompletion({ ...options, messages: messages(decode(prompt)) as never })
      : await this.llama.createCompletion({ ...options, prompt: decode(prompt) });
    this.chunks = (chunks as AsyncIterable<Chunk>)[Symbol.asyncIterator]();
  }

  /** The next piece of the text, or nothing at its end. */
  private async next(): Promise<string | undefined> {
    for (;;) {
      const { done, value } = await this.chunks!.next().catch((error: unknown) => {
        const message = error instanceof Error ? error.message : String(error);
        throw new NNError(/exceed.*context/i.test(message) ? "PROMPT_TOO_LONG" : "RUNTIME_ERROR", message);
      });
      if (done) return undefined;
      if (value.usage) this.tokens = { input_tokens: value.usage.prompt_tokens, output_tokens: value.usage.completion_tokens };
      const [choice] = value.choices;
      this.reason = choice?.finish_reason ?? this.reason;
      const piece = choice?.text ?? choice?.delta?.content;
      if (!piece) continue;
      this.text += piece;
      return piece;
    }
  }

  private outputs(): Tensor[] {
    return [bytes(this.text), bytes(JSON.stringify({ ...this.tokens, ...this.versions }))];
  }
}

/** The values of a config, by other names. */
function renamed(config: Config, names: Record<string, string>): Config {
  return Object.fromEntries(Object.entries(names).flatMap(([key, name]) => (config[key] === undefined ? [] : [[name, config[key]]])));
}

/** A conversation: a list of messages, or an object that has one. */
function messages(prompt: string): unknown {
  const value = JSON.parse(prompt) as unknown;
  return Array.isArray(value) ? value : (value as { messages: unknown }).messages;
}

const decode = ({ data }: Tensor) => new TextDecoder().decode(data);

function bytes(text: string): Tensor {
  const data = new TextEncoder().encode(text);
  return { type: "U8", dims: [data.length], data };
}
