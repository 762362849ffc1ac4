"""Recognise files by magic bytes: models of other libraries, programs, pictures."""

from __future__ import annotations

import json
import struct

from wasi_nn._models.recognition.pickles import is_pickle, pickled
from wasi_nn._models.recognition.sample import AGAIN, NO_BACKEND, Look, Sample

_ONLY_WASM = "only WebAssembly runs here: build the program for wasm32-wasip1"
_PRECOMPILED = "only one version of one engine can run it: give the .wasm that it was made from"
_OLD_GGML = (
    "convert the original model with llama.cpp's convert_hf_to_gguf.py, or download its GGUF"
)
_MERGE = "merge it into its model first, and convert that to GGUF or ONNX"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_CONVERT = "convert it to TFLite (TFLiteConverter) or ONNX (tf2onnx)"
_INPUT = "it may be an input of a model, and is not one"


def _program(what: str) -> Look:
    return Look(what, "", _ONLY_WASM)


#: An offset, the magic bytes there, and what such a file is.
_MAGICS: tuple[tuple[int, bytes, Look], ...] = (
    (0, _HDF5, Look("an HDF5 file (.h5)", _CONVERT)),
    (0, b"\x93NUMPY", Look("a numpy array (.npy)", _INPUT)),
    (0, b"lmgg", Look("a ggml file of before GGUF (also whisper.cpp's)", _OLD_GGML)),
    (0, b"fmgg", Look("a ggml file of before GGUF (ggmf)", _OLD_GGML)),
    (0, b"tjgg", Look("a ggml file of before GGUF (ggjt)", _OLD_GGML)),
    (0, b"algg", Look("a LoRA adapter of before GGUF (ggla)", _MERGE)),
    (0, b"nsgg", Look("a saved session of llama.cpp")),
    (0, b"qsgg", Look("a saved sequence of llama.cpp")),
    (0, b"ftrt", Look("a TensorRT engine", NO_BACKEND)),
    (0, b"ptrt", Look("a TensorRT engine", NO_BACKEND)),
    (0, b"CBM1", Look("a CatBoost model", "save it as ONNX: save_model(PATH, format='onnx')")),
    (0, b"RKNN", Look("an RKNN model", NO_BACKEND)),
    (4, b"ET12", Look("an ExecuTorch program (.pte)", NO_BACKEND)),
    (0, b"ML\xefR", Look("MLIR bytecode (a StableHLO model, perhaps)", NO_BACKEND)),
    (0, b"\x12\x01\0\0\0\0\0\0", Look("an MXNet file (.params)", NO_BACKEND)),
    (0, b"\0aot", Look("code that wamrc compiled (.aot)", "", _PRECOMPILED)),
    (0, b"\0wasmer-universal", Look("code that wasmer compiled", "", _PRECOMPILED)),
    (0, b"wasmer-universal", Look("code that wasmer compiled", "", _PRECOMPILED)),
    (0, b"BC\xc0\xde", _program("LLVM bitcode")),
    (0, b"\xcf\xfa\xed\xfe", _program("a native program for macOS (Mach-O)")),
    (0, b"\xce\xfa\xed\xfe", _program("a native program for macOS (Mach-O)")),
    (0, b"\xfe\xed\xfa\xcf", _program("a native program for macOS (Mach-O)")),
    (0, b"\xfe\xed\xfa\xce", _program("a native program for macOS (Mach-O)")),
    (0, b"\xca\xfe\xba\xbe", _program("a program for macOS (Mach-O) or Java")),
    (0, b"\x89PNG\r\n\x1a\n", Look("a picture (PNG)", _INPUT)),
    (0, b"\xff\xd8\xff", Look("a picture (JPEG)", _INPUT)),
    (0, b"GIF8", Look("a picture (GIF)", _INPUT)),
    (0, b"II*\0", Look("a picture (TIFF)", _INPUT)),
    (0, b"MM\0*", Look("a picture (TIFF)", _INPUT)),
    (8, b"WEBP", Look("a picture (WebP)", _INPUT)),
    (8, b"WAVE", Look("a sound (WAV)", _INPUT)),
    (0, b"ID3", Look("a sound (MP3)", _INPUT)),
    (0, b"OggS", Look("a sound (Ogg)", _INPUT)),
    (0, b"fLaC", Look("a sound (FLAC)", _INPUT)),
    (4, b"ftyp", Look("a film or picture (MP4, HEIC, AVIF)", _INPUT)),
    (0, b"%PDF-", Look("a PDF document")),
    (0, b"SQLite format 3\0", Look("an SQLite database")),
    (0, b"PAR1", Look("a Parquet table", _INPUT)),
    (0, b"ARROW1", Look("an Arrow table", _INPUT)),
)
_WASM = b"\0asm"
# wasmtime's OS ABI in the header of an ELF file, and its offset.
_WASMTIME, _OS_ABI = 200, 7
_MAX_HEADER = 100 << 20
_LORA = (b"lora_", b"lokr_", b"loha_", b"ss_network_module")


def recognise(sample: Sample) -> Look | None:
    """Recognise a file by magic bytes. None if they are unknown."""
    head = sample.head
    if head.startswith(_HDF5) and b"keras" in head + sample.tail:
        return Look("a Keras model (.h5)", _CONVERT)
    for at, magic, look in _MAGICS:
        if head.startswith(magic, at):
            return look
    if head.startswith(_WASM):
        return _wasm(sample)
    if head.startswith(b"\x7fELF"):
        if head[_OS_ABI : _OS_ABI + 1] == bytes((_WASMTIME,)):
            return Look("code that wasmtime compiled (.cwasm)", "", _PRECOMPILED)
        return _program("a native program or library for Linux (ELF)")
    if head.startswith(b"MZ"):
        return _program("a native program for Windows (PE), or a llamafile")
    if is_pickle(head):
        return pickled(head)
    return _safetensors(sample)


def _wasm(sample: Sample) -> Look:
    component = sample.head[6:8] == b"\x01\0"
    what = "a WebAssembly component" if component else "a WebAssembly module"
    return Look(what, "it is a guest: give it as such, and a model here")


def _safetensors(sample: Sample) -> Look | None:
    """A safetensors file has a length of 64 bits, a JSON header of that length, and the tensors."""
    if len(sample.head) < 9 or sample.head[8:9] != b"{":
        return None
    (length,) = struct.unpack_from("<Q", sample.head)
    if not 2 <= length <= _MAX_HEADER:
        return None
    header = sample.head[8 : 8 + length]
    needed = 8 + length + _tensors(header if len(header) == length else b"")
    if needed > sample.size:
        return Look(
            f"a safetensors file that is cut off: it needs {needed:,} bytes and has "
            f"{sample.size:,}",
            AGAIN,
            cut_off=True,
        )
    named = sample.path is not None and sample.path.name.startswith("adapter_")  # prose: allow
    if named or any(word in header for word in _LORA):
        return Look("a LoRA adapter (safetensors)", _MERGE)
    return Look(
        "weights in safetensors",
        "they have no graph that could run: convert the model to GGUF (llama.cpp's "
        "convert_hf_to_gguf.py), or export it to ONNX (optimum-cli)",
    )


def _tensors(header: bytes) -> int:
    """The size in bytes of the tensors in a header. 0 if the header cannot be read."""
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
    except (ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError):
        return 0
    return max((end for end in ends if isinstance(end, int)), default=0)
