"""Recognise pickled models by their first bytes. Nothing is ever unpickled."""

from __future__ import annotations

from wasi_nn._models.recognition.sample import Look

#: What to do with weights without a graph.
EXPORT = (
    "it has weights and no graph that could run. Load it in PyTorch and export the module: "
    "torch.jit.save(torch.jit.trace(module.eval(), example), PATH), or torch.onnx.export"
)
# The pickled magic number of torch's first format.
_TORCH = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
#: Module names in a pickle, and what the object is if one is found.
_MODULES: tuple[tuple[bytes, Look], ...] = (
    (b"torch", Look("a pickled PyTorch checkpoint or state dict", EXPORT)),
    (b"sklearn", Look("a pickled scikit-learn model", "convert it to ONNX with skl2onnx")),
    (b"lightgbm", Look("a pickled LightGBM model", "convert it to ONNX with onnxmltools")),
    (b"xgboost", Look("a pickled XGBoost model", "convert it to ONNX with onnxmltools")),
)


def is_pickle(head: bytes) -> bool:
    """Whether the bytes begin like a pickle of protocol 2 to 5."""
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def pickled(head: bytes) -> Look:
    """Recognise a pickle by its first bytes."""
    if head[2:].startswith(_TORCH):
        return Look("a PyTorch checkpoint or state dict in the old pickle format", EXPORT)
    for module, look in _MODULES:
        if module in head:
            return look
    return Look(
        "a pickled Python object (a checkpoint or state dict, perhaps)",
        "a pickle is never loaded, because it can run any code. Export the model to ONNX or "
        "TorchScript",
    )
