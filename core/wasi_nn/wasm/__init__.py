"""Reading and rewriting Wasm binaries, without an engine."""

__all__: tuple[str, ...] = ()
