"""Parse an export's arguments from the command line, and print its results as wasmtime does."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from wasi_nn._host.options import Call
from wasi_nn.errors import UsageError
from wasi_nn.wasm.module import Signature


def call_of(signatures: Mapping[str, Signature | None], export: str, texts: Sequence[str]) -> Call:
    """A call with the arguments as numbers of the signature's types. Raises ``UsageError``."""
    signature = signatures.get(export)
    if signature is None:
        # The program reports a missing export.
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
    """A result in decimal without an exponent. A float has as few digits as identify it."""
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
    from decimal import Decimal

    plain = format(Decimal(text), "f")
    return plain.removesuffix(".0")


def _single(value: float) -> bytes:
    return struct.pack("<f", value)
