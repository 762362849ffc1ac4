"""An export's arguments from the command line, and its results to it, as wasmtime prints them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from decimal import Decimal

from wasi_nn._host.program import Call
from wasi_nn.errors import UsageError
from wasi_nn.wasm.module import WasmFile


def call_of(file: WasmFile, export: str, texts: Sequence[str]) -> Call:
    """A call with numbers that the signature takes. Raises ``UsageError``."""
    signature = file.signatures.get(export)
    if signature is None:
        # (The program has the words for an export that is not there.)
        return Call(export)
    if len(texts) != len(signature.parameters):
        raise UsageError(f"{export} is {signature}; {len(texts)} arguments are given")
    numbers = zip(texts, signature.parameters, strict=True)
    return Call(export, tuple(_number(text, kind) for text, kind in numbers))


def _number(text: str, kind: str) -> float:
    try:
        return int(text, 0) if kind.startswith("i") else float(text)
    except ValueError:
        raise UsageError(f"an argument is an {kind}, not {text!r}") from None


def shown(value: float, kind: str) -> str:
    """A result in decimal, without an exponent; a float in the fewest digits that give it back."""
    if isinstance(value, int):
        return str(value)
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    text = repr(value)
    if kind == "f32":
        digits = (f"{value:.{count}g}" for count in range(1, 10))
        text = next(one for one in digits if struct.pack("<f", float(one)) == _single(value))
    plain = format(Decimal(text), "f")
    return plain.removesuffix(".0")


def _single(value: float) -> bytes:
    return struct.pack("<f", value)
