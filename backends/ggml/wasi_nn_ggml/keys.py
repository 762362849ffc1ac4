"""The keys of the ggml protocol's config, by the type that WasmEdge reads.

Source: WasmEdge's plugins/wasi_nn/GGML/metadata/metadata_parser.cpp.
"""

from __future__ import annotations

FLAGS = """
enable-log enable-debug-log cpu-moe embedding tts mask-valid strict-cpu mask-valid-batch
strict-cpu-batch ignore-eos no-perf-sampling timing-per-token stream-stdout
always-regenerate-image-embd lora-init-without-apply hellaswag winogrande multiple-choice
kl-divergence usage use-color special interactive interactive-first prompt-cache-all prompt-cache-ro
escape multiline-input simple-io cont-batching no-perf ctx-shift input-prefix-bos use-mlock use-mmap
verbose-prompt display-prompt no-kv-offload warmup check-tensors reranking enable-chat-template
webui endpoint-slots endpoint-props endpoint-metrics log-json is-pp-shared process-output
compute-ppl spm-infill batched-bench-output-jsonl include_usage
""".split()
WHOLE = """
main-gpu n-gpu-layers n-cpu-moe ctx-size batch-size ubatch-size n-keep n-chunks n-parallel
n-sequences grp-attn-n grp-attn-w n-print yarn-orig-ctx priority poll priority-batch poll-batch numa
rope-scaling-type pooling-type attention-type threads threads-batch n-prev n-probs min-keep top-k
last-n-penalty dry-allowed-length dry-last-n-penalty mirostat seed n-ctx-speculative
n-max-speculative n-min-speculative n-gpu-layers-speculative n-predict verbosity
control-vector-layer-start control-vector-layer-end ppl-stride ppl-output-type cache-type-k
cache-type-v embd-normalize port timeout-read timeout-write n-threads-http n-cache-reuse n-pp n-tg
n-pl chunk-size n-junk i-pos n-out-freq n-save-freq i-chunk n-pca-batch n-pca-iterations
hellaswag-tasks winogrande-tasks multiple-choice-tasks
""".split()
# WasmEdge spells it "dry-multipier".
NUMBERS = """
rope-freq-base rope-freq-scale yarn-ext-factor yarn-attn-factor yarn-beta-fast yarn-beta-slow min-p
xtc-probability xtc-threshold typ-p dynatemp-range dynatemp-exponent temp top-p repeat-penalty
presence-penalty frequency-penalty dry-multipier dry-base mirostat-eta p-split-speculative
p-min-speculative slot-prompt-similarity
""".split()
TEXTS = """
tensor-split split-mode mmproj model-vocoder tts-output-file tts-speaker-file grammar json-schema
hf-repo-vocoder hf-file-vocoder model-url-vocoder reverse-prompt image model-alias model-url
hf-token hf-repo hf-file prompt-file path-prompt-cache input-prefix input-suffix lookup-cache-static
lookup-cache-dynamic logits-file flash-attn embd-out embd-sep hostname public-path chat-template
ssl-file-key ssl-file-cert slot-save-path context-files chunk-separator out-file
cvector-dimre-method cvector-positive-file cvector-negative-file json_schema
""".split()

#: What only the operator may set, since it concerns other guests.
HOST_ONLY = frozenset(("kv-memory", "share-prefixes"))

# WasmEdge's example programs read these keys themselves and send them to the host too.
PROGRAMS = ("llama3",)

BY_TYPE: dict[type, list[str]] = {bool: FLAGS, int: WHOLE, float: NUMBERS, str: TEXTS}
KEYS = frozenset([*FLAGS, *WHOLE, *NUMBERS, *TEXTS, *PROGRAMS, *HOST_ONLY])
