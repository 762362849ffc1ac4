"""The core-module ABI, ``wasi_ephemeral_nn`` and WAMR's ``wasi_nn``, in every dialect."""
