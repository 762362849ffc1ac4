"""Fuzz and soak: hostile models, texts, calls and bytes, and very many guests.

    python -m fuzz models      mutated and built models of every encoding, and texts for ggml
    python -m fuzz calls       the core ABI's calls from Wasm, on every engine
    python -m fuzz decoders    bytes for the host's own readers
    python -m fuzz soak        very many sessions, with flat memory

Everything follows from ``--seed``. Each command prints a table, and writes it with ``--json``.
"""
