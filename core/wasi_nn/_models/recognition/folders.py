"""Recognise a folder that was given instead of a file, and a file by its neighbours."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from wasi_nn._models.recognition.sample import AGAIN, BY_OPENVINO, NO_BACKEND, Look

_MAX_ENTRIES = 1000
_MODELS = (".onnx", ".ort", ".gguf", ".tflite", ".xml", ".pt2", ".pt", ".torchscript")
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".aria2")
_TENSORFLOW = "export it as a SavedModel, and convert that to ONNX (tf2onnx) or TFLite"


def recognise(folder: Path) -> Look:
    """Recognise a folder by the files in it."""
    try:
        names = sorted(entry.name for entry in islice(folder.iterdir(), _MAX_ENTRIES))
    except OSError:
        names = []
    guests = [name for name in names if name.endswith(".wasm")]
    instead = f"name the file in it: {', '.join(guests[:3])}" if guests else "name a .wasm file"
    if "saved_model.pb" in names:
        return Look(
            "the folder of a TensorFlow SavedModel",
            BY_OPENVINO,
            instead,
        )
    if folder.suffix in (".mlpackage", ".mlmodelc") or "coremldata.bin" in names:
        return Look("a Core ML model (a folder)", NO_BACKEND, instead)
    models = [name for name in names if name.endswith(_MODELS)]
    if models:
        return Look("a folder", f"name the file in it: {', '.join(models[:3])}", instead)
    if any(name.endswith((".safetensors", ".bin")) for name in names):
        return Look(
            "a folder of weights (Hugging Face's, perhaps)",
            "export the model to ONNX (optimum-cli), or convert it to GGUF",
            instead,
        )
    return Look("a folder", "name a file", instead)


def by_name(path: Path) -> Look | None:
    """Recognise a file by its name and the files beside it."""
    if path.name.endswith(_UNFINISHED):
        return Look("a download that is not finished", AGAIN)
    xml = path.with_suffix(".xml")
    if path.suffix == ".bin" and xml.is_file():
        return Look(
            f"the weights of an OpenVINO model, {xml.name}",
            f"give {xml.name}, or both with the .xml first",
        )
    name = path.name.replace(".onnx_data", ".onnx").replace(".onnx.data", ".onnx")
    if name != path.name:
        return Look("the weights of an ONNX model", f"give {name}: it names this file")
    if ".data-0" in name or (path.suffix in (".index", ".meta") and "ckpt" in name):
        return Look("a part of a TensorFlow checkpoint", _TENSORFLOW)
    return None
