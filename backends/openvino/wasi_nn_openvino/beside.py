"""The files that OpenVINO finds beside the one path of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from wasi_nn.backend.files import Version, version
from wasi_nn.backend.onnx_files import external_files
from wasi_nn.encodings import OPENVINO, head, recognise

_CONSTANT = re.compile(rb"""\btype\s*=\s*["']Const["']""")


def beside(model: Path) -> Sequence[Path]:
    """The files that OpenVINO reads together with the model: IR's weights, ONNX's external data,
    and the parameters of PaddlePaddle and TensorFlow checkpoints. Raises ``ModelNotFound``."""
    if model.suffix == ".pdmodel":
        return _there(model.with_suffix(".pdiparams"))
    if model.suffix == ".meta":
        return sorted(model.parent.glob(f"{model.stem}.index")) + sorted(
            model.parent.glob(f"{model.stem}.data-*")
        )
    has_constants = _has_constants(version(model))
    if has_constants is None:
        return external_files(model)
    weights = model.with_suffix(".bin")
    return [weights] if has_constants else _there(weights)


def _there(file: Path) -> list[Path]:
    return [file] if file.exists() else []


@lru_cache(maxsize=256)
def _has_constants(model: Version) -> bool | None:
    """Whether IR has weights. None for a file that is not IR."""
    path = Path(model.path)
    if not path.is_file() or recognise(head(path)) != OPENVINO:
        return None
    return _CONSTANT.search(path.read_bytes()) is not None
