"""WasmEdge's ggml protocol: graphs and contexts, prompts, configs and answers."""
