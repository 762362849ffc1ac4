"""Batching: computations of several contexts that wait at the same time become one.

The operator asks for it with the key ``batching`` of a model's config, and claims with it that the
model is separable: that row k of each output depends on row k of the inputs alone.
"""
