"""WasmEdge's sockets, for guests on every engine."""
