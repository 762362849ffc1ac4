"""The repositories of plugins that `wasi-nn new` writes.

Each is a plugin that works, with the name ``newname``. The command puts another name there.
"""
