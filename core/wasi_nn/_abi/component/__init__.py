"""The component-model ABI, ``wasi:nn``, in every published version."""
