"""Guests as tools of agents. ``wasi_nn.tools`` has the public names."""
