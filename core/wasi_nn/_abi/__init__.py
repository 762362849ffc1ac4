"""The wasi-nn ABI: what a guest's calls look like in memory, and how they reach a session."""
