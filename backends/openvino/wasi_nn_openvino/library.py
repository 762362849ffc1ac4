"""OpenVINO's C library, from the package openvino.

The package's Python is left out: to import it takes longer than to load and compile a small model.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wasi_nn.backend import missing_library
from wasi_nn.errors import RuntimeFailure, Unavailable
from wasi_nn.runtime.library import POINTER, Once, holding_gil, lean

_TYPES = re.compile(r"enum\s*\{([^}]*)\}\s*ov_element_type_e\s*;")
_COMMENTS = re.compile(r"//.*")
_PLACES = re.compile(r"(?:Exception from|Check '.*?' failed at) \S+:\d+:? ?")
_INT, _SIZE, _LONG = ctypes.c_int, ctypes.c_size_t, ctypes.c_int64


class OpenvinoError(RuntimeFailure):
    """A call failed. The message is OpenVINO's, without the places in its source."""


class Shape(ctypes.Structure):
    """``ov_shape_t``"""

    _fields_ = (("rank", _LONG), ("dims", ctypes.POINTER(_LONG)))


class Dimension(ctypes.Structure):
    """``ov_dimension_t`` and ``ov_rank_t``. Both ends differ if it is open."""

    _fields_ = (("min", _LONG), ("max", _LONG))


class PartialShape(ctypes.Structure):
    """``ov_partial_shape_t``"""

    _fields_ = (("rank", Dimension), ("dims", ctypes.POINTER(Dimension)))


class Devices(ctypes.Structure):
    """``ov_available_devices_t``"""

    _fields_ = (("names", ctypes.POINTER(ctypes.c_char_p)), ("size", _SIZE))


class Library:
    """The functions that the backend uses, with their pointers as plain integers. Their names are
    OpenVINO's, without ``ov_``. Those that take long let go of the GIL."""

    def __init__(self) -> None:
        reason = missing()
        if reason is not None:
            raise Unavailable(reason)
        folder = _folder()
        #: The names of the element types (``f32``), by number. The numbers are not the same in
        #: every version of OpenVINO.
        self.types = element_types(folder / "include" / "openvino" / "c" / "ov_common.h")
        (file,) = _files(folder)
        try:
            library = ctypes.CDLL(str(file))
        except OSError as error:
            raise Unavailable(f"{file} cannot be loaded: {error}") from None
        self._find(partial(lean, library), partial(lean, holding_gil(library)))

    def _find(self, slow: Callable[..., Any], quick: Callable[..., Any]) -> None:
        pointer, sides = POINTER, ("input", "output")
        self._message = quick("ov_get_last_err_msg", pointer)
        self._free = quick("ov_free", None, pointer)
        self._frees = {
            kind: slow(f"ov_{kind}_free", None, pointer)
            for kind in ("core", "model", "compiled_model", "infer_request", "output_const_port")
        }
        self._frees["tensor"] = quick("ov_tensor_free", None, pointer)
        self.core_create = slow("ov_core_create", _INT, pointer)
        self.core_get_property = slow("ov_core_get_property", _INT, *[pointer] * 4)
        self.core_get_available_devices = slow(
            "ov_core_get_available_devices", _INT, pointer, pointer
        )
        self.available_devices_free = quick("ov_available_devices_free", None, pointer)
        self.core_read_model = slow("ov_core_read_model", _INT, *[pointer] * 4)
        self.core_read_model_from_memory_buffer = slow(
            "ov_core_read_model_from_memory_buffer", _INT, pointer, pointer, _SIZE, pointer, pointer
        )
        # The names and the values of settings follow.
        self.core_compile_model = slow(
            "ov_core_compile_model", _INT, pointer, pointer, pointer, _SIZE, pointer
        )
        self.compiled_model_size = {
            side: quick(f"ov_compiled_model_{side}s_size", _INT, pointer, pointer) for side in sides
        }
        self.compiled_model_port = {
            side: quick(f"ov_compiled_model_{side}_by_index", _INT, pointer, _SIZE, pointer)
            for side in sides
        }
        self.compiled_model_named_port = {
            side: quick(f"ov_compiled_model_{side}_by_name", _INT, *[pointer] * 3) for side in sides
        }
        self.compiled_model_create_infer_request = slow(
            "ov_compiled_model_create_infer_request", _INT, pointer, pointer
        )
        self.port_get_any_name = quick("ov_port_get_any_name", _INT, pointer, pointer)
        self.port_get_partial_shape = quick("ov_port_get_partial_shape", _INT, pointer, pointer)
        self.port_get_element_type = quick("ov_port_get_element_type", _INT, pointer, pointer)
        self.partial_shape_free = quick("ov_partial_shape_free", None, pointer)
        self.infer_request_infer = slow("ov_infer_request_infer", _INT, pointer)
        self.infer_request_cancel = slow("ov_infer_request_cancel", _INT, pointer)
        self.infer_request_get_tensor = {
            side: quick(
                f"ov_infer_request_get_{side}_tensor_by_index", _INT, pointer, _SIZE, pointer
            )
            for side in sides
        }
        self.infer_request_set_input_tensor = slow(
            "ov_infer_request_set_input_tensor_by_index", _INT, pointer, _SIZE, pointer
        )
        self.tensor_create = slow("ov_tensor_create", _INT, _INT, Shape, pointer)
        self.tensor_create_from_host_ptr = slow(
            "ov_tensor_create_from_host_ptr", _INT, _INT, Shape, pointer, pointer
        )
        self.tensor_set_shape = slow("ov_tensor_set_shape", _INT, pointer, Shape)
        self.tensor_get_shape = quick("ov_tensor_get_shape", _INT, pointer, pointer)
        self.shape_free = quick("ov_shape_free", _INT, pointer)
        self.tensor_get_element_type = quick("ov_tensor_get_element_type", _INT, pointer, pointer)
        self.tensor_get_byte_size = quick("ov_tensor_get_byte_size", _INT, pointer, pointer)
        self.tensor_data = quick("ov_tensor_data", _INT, pointer, pointer)

    def check(self, status: int) -> None:
        """Raise ``OpenvinoError`` unless the status is 0."""
        if status:
            # It is the last message of all threads, but nothing else tells the reason.
            text = " ".join((self.text(self._message()) or f"status {status}").split())
            raise OpenvinoError(_PLACES.sub("", text) or text)

    def text(self, address: int | None) -> str:
        """A string that the library has made, which is freed; "" for none."""
        if not address:
            return ""
        text = ctypes.string_at(address).decode("utf-8", "replace")
        self._free(address)
        return text

    def owned(self, kind: str, function: Any, *arguments: Any, more: Sequence[str] = ()) -> Owned:
        """What a function makes, and gives by the argument after ``arguments``. Raises
        ``OpenvinoError``."""
        made = POINTER()
        rest = [text.encode() for text in more]
        self.check(function(*arguments, ctypes.byref(made), *rest))
        return Owned(made.value or 0, self._frees[kind])

    def value(self, kind: Any, function: Any, *arguments: Any) -> Any:
        """What a function gives by its last argument. Raises ``OpenvinoError``."""
        value = kind()
        self.check(function(*arguments, ctypes.byref(value)))
        return value.value

    def type_name(self, number: int) -> str:
        """The name of an element type."""
        return self.types[number] if 0 <= number < len(self.types) else f"element type {number}"


class Owned:
    """An object of the library, freed with its last reference."""

    __slots__ = ("_free", "address")

    def __init__(self, address: int, free: Callable[[int], None]) -> None:
        self.address = address
        self._free = free

    def __del__(self) -> None:
        self._free(self.address)


openvino = Once(Library)


def missing() -> str | None:
    """Why there is no library, and what to do about it; None if there is one. Loads nothing."""
    reason = missing_library("openvino", "openvino")
    if reason is None and len(_files(_folder())) != 1:
        reason = (
            f"the package openvino in {_folder()} has no C library (libs/libopenvino_c): "
            'pip install --force-reinstall "openvino>=2025.0"'
        )
    return reason


def _folder() -> Path:
    spec = find_spec("openvino")
    places = spec.submodule_search_locations if spec is not None else None
    return Path(places[0]) if places else Path()


def _files(folder: Path) -> list[Path]:
    return [
        file
        for file in (folder / "libs").glob("*openvino_c*")
        if file.suffix != ".lib" and file.name.startswith(("libopenvino_c.", "openvino_c."))
    ]


def element_types(header: Path) -> list[str]:
    """The names of the element types, by number. Raises ``Unavailable``."""
    try:
        found = _TYPES.search(_COMMENTS.sub("", header.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise Unavailable(f"the header file of OpenVINO cannot be read: {error}") from None
    names = [name.partition("=")[0].strip() for name in found[1].split(",")] if found else []
    if "F32" not in names:
        raise Unavailable(f"{header} does not list OpenVINO's element types as expected")
    return [name.removeprefix("OV_").lower() for name in names if name]
