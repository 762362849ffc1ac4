"""The versions of the package ``wasmtime`` whose C library we can call."""

from __future__ import annotations

# Its C interface may change with every version. Our declarations (capi.py and its users) agree with
# the headers of these.
_FIRST, _LAST = 48, 50


def refusal(version: str) -> str | None:
    """Why we cannot call the library of this version of the package; None if we can."""
    major = version.partition(".")[0]
    if major.isdigit() and _FIRST <= int(major) <= _LAST:
        return None
    seen = f"wasmtime {version}" if version else "wasmtime without its version"
    return (
        f"{seen} is installed, and its C interface is known here from {_FIRST} to {_LAST}; "
        f'pip install "wasmtime>={_FIRST},<{_LAST + 1}"'
    )
