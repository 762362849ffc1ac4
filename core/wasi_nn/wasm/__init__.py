"""Reading and rewriting Wasm binaries, without an engine."""
