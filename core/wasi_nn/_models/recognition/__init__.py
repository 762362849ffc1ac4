"""Tell what a wrong file really is: a web page, a pointer, a checkpoint, a program.

This is asked after a library has rejected a model, or if no backend recognises a model. It never
stops a library from loading a file. It reads a few kilobytes and neither loads nor unpickles
anything. Its texts quote files and guests' bytes, so errors escape them (see ``escaping``).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from pathlib import Path

from wasi_nn import encodings
from wasi_nn._models.recognition import archives, binaries, folders, protobufs, texts
from wasi_nn._models.recognition.sample import AGAIN, GIVE, Look, Sample
from wasi_nn.backend import Builder
from wasi_nn.wasm.module import MAGIC

_EMPTY = Look("an empty file (0 bytes)", AGAIN)
_ZEROS = Look("nothing but zeros", "its download or copy is not finished: get it again")
_TITLES = {
    encodings.ONNX: "an ONNX model",
    encodings.OPENVINO: "an OpenVINO model (.xml)",
    encodings.PYTORCH: "a PyTorch archive",
    encodings.TENSORFLOWLITE: "a TensorFlow Lite model",
    encodings.GGML: "a GGUF model",
}
#: The backends of these encodings explain themselves what is wrong with a file.
_NAMED_BY_BACKENDS = (encodings.GGML, encodings.OPENVINO, encodings.TENSORFLOWLITE)
_QUOTED = 8
_PROGRAM = "give the .wasm file of a program"


def model(builders: Sequence[Builder], served: Collection[str] = ()) -> str | None:
    """A sentence that tells what the builders are, if they are not a model of one of the encodings
    ``served``. It is about the first builder, or about a later one that is only a placeholder."""
    known = all(encoding in _TITLES for encoding in served)
    for number, builder in enumerate(builders):
        found = look(builder, served)
        # A third-party backend may read any format, so only certain placeholders are reported.
        if found is None or not (known or (found.stands_in and found.certain)):
            continue
        if not number or found.stands_in:
            return _sentence(builder, found)
    return None


def undetected(builders: Sequence[Builder], hint: str = "") -> str:
    """Why no backend recognises a model: what it is, or its first bytes and what to do
    (``hint``)."""
    told = model(builders)
    if told is not None:
        return told
    sample = Sample.of(builders[0])
    if sample is None:
        return hint
    subject = "it" if sample.path is None else str(sample.path)
    return f"{subject} begins with {sample.head[:_QUOTED]!r}" + (f"; {hint}" if hint else "")


def guest(source: Builder, encoding: str | None = None) -> str:
    """A sentence that tells what was given instead of a guest. ``encoding`` is set if a backend
    recognises it as a model."""
    found = look(source)
    if encoding is not None and encoding not in _TITLES:
        found = Look(f"a model of the encoding {encoding}", for_guest=GIVE)
    subject = str(source) if isinstance(source, Path) else "this"
    wrong = f"{subject} is not a WebAssembly module or component"
    if found is not None:
        advice = found.advice if found.for_guest is None else found.for_guest
        return f"{wrong}: it is {found.what}{_then(advice or _PROGRAM)}"
    sample = Sample.of(source)
    begins = "" if sample is None else f"it begins with {sample.head[:_QUOTED]!r}, and "
    return f"{wrong}: {begins}these begin with {MAGIC!r}"


def look(source: Builder, served: Container[str] = ()) -> Look | None:
    """What a file or bytes are, unless they are a complete model of an encoding in ``served``."""
    if isinstance(source, Path) and source.is_dir():
        return folders.recognise(source)
    sample = Sample.of(source)
    if sample is None:
        return None
    if not sample.size:
        return _EMPTY
    known = encodings.recognise(sample.head)
    if known in served and known in _NAMED_BY_BACKENDS:
        return None
    found = _recognise(sample, known)
    if known == encodings.PYTORCH and known in served and not (found and found.cut_off):
        return None
    if found is None and known is not None and known not in served:
        return Look(_TITLES[known], f"its encoding is {known}", GIVE)
    if found is None and known is None and sample.path is not None:
        return folders.by_name(sample.path)
    return found


def _recognise(sample: Sample, known: str | None) -> Look | None:
    if known in _NAMED_BY_BACKENDS:
        return None
    if not sample.head.strip(b"\0") and not sample.tail.strip(b"\0"):
        return _ZEROS
    for kind in (binaries, archives, texts, protobufs):
        found: Look | None = kind.recognise(sample)
        if found is not None:
            return found
    return None


def _sentence(source: Builder, found: Look) -> str:
    subject = str(source) if isinstance(source, Path) else "the model"
    return f"{subject} is {found.what}{_then(found.advice)}"


def _then(advice: str) -> str:
    return f". {advice[0].upper()}{advice[1:]}" if advice else ""
