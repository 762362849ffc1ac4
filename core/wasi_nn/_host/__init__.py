"""The host: programs, guests, and models without Wasm."""
