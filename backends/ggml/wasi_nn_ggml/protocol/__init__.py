"""WasmEdge's ggml protocol: graphs and contexts, prompts and outputs."""
