"""Calls of the core ABI from inside Wasm, from tables of calls in the guest's memory."""
