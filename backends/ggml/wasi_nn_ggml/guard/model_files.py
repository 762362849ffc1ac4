"""The files of a model: the parts of a split one, and the files that a config names.

llama.cpp's gguf-split writes split models. The first part has the number of parts, all keys and the
vocabulary. The others lie in the same folder under names that differ in the number. Any part may
have no tensors.
"""

from __future__ import annotations

import re
import reprlib
from pathlib import Path

from wasi_nn.errors import InvalidArgument, ModelNotFound, RuntimeFailure
from wasi_nn_ggml.guard import gguf
from wasi_nn_ggml.guard.gguf import Contents

_NAME = re.compile(r"(.*-)00001(-of-\d{5}\.gguf)")
_MAX_PARTS = 4096


def files(path: Path) -> list[Path]:
    """The files of a model: ``path``, and if it is the first part of a split model, the later parts
    that exist. Looks at names only."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return [path]
    count = min(int(match[2][4:9]), _MAX_PARTS)
    others = (path.with_name(f"{match[1]}{n:05}{match[2]}") for n in range(2, count + 1))
    return [path, *(other for other in others if other.exists())]


def check(path: Path) -> Contents:
    """The contents of a model, all parts together. Raises ``ModelNotFound`` for a missing part, and
    ``RuntimeFailure`` if a part is not valid or ``path`` is not the first."""
    contents = read_header(path)
    if contents.part:
        raise RuntimeFailure(
            f"{path.name} is part {contents.part + 1} of {contents.parts} of a split model: "
            "name the first part"
        )
    if contents.parts < 2:
        contents.check_model()
        return contents
    suffix = f"-00001-of-{contents.parts:05}.gguf"
    if not path.name.endswith(suffix) or contents.parts > _MAX_PARTS:
        raise RuntimeFailure(
            f"{path.name} is the first of {contents.parts} parts of a split model: its name must "
            f"end in {suffix}, because the other parts are found by it"
        )
    start = path.name[: -len(suffix)]
    for number in range(2, contents.parts + 1):
        contents = contents.joined(
            _part(path.with_name(f"{start}-{number:05}-of-{contents.parts:05}.gguf"), number)
        )
    contents.check_model()
    return contents


def beside(model: Path, name: str, key: str) -> Path:
    """The file that a config names with ``key``: it must lie in the folder of the model. Raises
    ``InvalidArgument`` and ``ModelNotFound``."""
    try:
        folder = model.resolve().parent
        path = Path(name).resolve()
        if not path.is_relative_to(folder):
            path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise InvalidArgument(
                f"the config's {key} is outside the model's folder: {reprlib.repr(name)}"
            )
        if not path.is_file():
            raise ModelNotFound(f"the config's {key}: there is no file {path}")
    except (OSError, ValueError) as error:
        # The name is too long, or is not a file name at all.
        raise InvalidArgument(f"the config's {key} is not the name of a file: {error}") from error
    return path


def _part(path: Path, number: int) -> Contents:
    try:
        contents = read_header(path)
    except RuntimeFailure as error:
        raise RuntimeFailure(f"{path.name}: {error}") from error
    if contents.part + 1 != number:
        raise RuntimeFailure(
            f"{path.name} says that it is part {contents.part + 1} and must be part {number} of a "
            "split model: download the parts again"
        )
    return contents


def whole(descriptor: int) -> Contents:
    """The contents of a model in one file. Raises ``InvalidArgument`` for a part of a split model,
    and ``RuntimeFailure`` if the file is not valid."""
    contents = gguf.check(descriptor)
    if contents.parts > 1:
        raise InvalidArgument(
            f"the model is part {contents.part + 1} of {contents.parts} of a split model: a guest "
            "can bring only a model in one piece"
        )
    contents.check_model()
    return contents


def read_header(path: Path) -> Contents:
    """What the header of a GGUF file says. Raises ``ModelNotFound``, and ``RuntimeFailure`` if the
    file is not valid."""
    try:
        with path.open("rb") as file:
            return gguf.check(file.fileno())
    except OSError as error:
        raise ModelNotFound(f"model file {path}: {error.strerror or error}") from error
