"""The functions of WasmEdge's C API that this runtime calls (wasmedge.h, 0.14 and newer).

Every difference between the versions is handled here (their headers were compared):

- ``ModuleInstanceCreateWASIWithFds`` is new in 0.16. ``redirects`` says whether the library has it.
  With an older library, a guest has the standard streams of its process.
- Page counts and offsets were u32 up to 0.16, and are u64 since. Arguments are passed as u64, but
  stay below 2^32. The page count fits in 32 bits and is read as a u32, because a function that
  returns a u32 leaves the upper half of the register undefined.
- ``ModuleInstanceAddFunction`` returned nothing up to 0.16, and returns a result since. So its
  result is ignored, and the function is looked up in the module.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from wasi_nn.errors import Unavailable
from wasi_nn.runtime.library import POINTER, Once, holding_gil, lean, load
from wasi_nn.wasm.arguments import F32, F64, I32, I64

VARIABLE = "WASI_NN_LIBWASMEDGE"
_HELP = "install WasmEdge 0.14 or newer (Debian and Ubuntu: apt-get install libwasmedge0)"
#: The name in a distribution's package, which lacks the one that developers link to.
_SONAMES = ("libwasmedge.so.0",)
_MAX_PAGES = (1 << 32) - 1
# Where WasmEdge's installer puts it: for one user, and for all users.
_PLACES = (Path.home() / ".wasmedge" / "lib", Path("/usr/local/lib"), Path("/usr/local/lib64"))
_U32, _U64 = ctypes.c_uint32, ctypes.c_uint64


class String(ctypes.Structure):
    """WasmEdge_String, and WasmEdge_Bytes, which has the same layout. Passed by value."""

    _fields_ = [("length", ctypes.c_uint32), ("buffer", ctypes.c_char_p)]

    @classmethod
    def of(cls, text: str) -> String:
        data = text.encode()
        return cls(len(data), data)


class Value(ctypes.Structure):
    """WasmEdge_Value: 16 bytes, and the type. A number uses the first 8 bytes."""

    _fields_ = [
        ("raw", ctypes.c_uint64),
        ("high", ctypes.c_uint64),
        ("kind", ctypes.c_uint64),
        ("padding", ctypes.c_uint64),
    ]


#: ``WasmEdge_Result (*)(void *, const CallingFrameContext *, const Value *, Value *)``. The result
#: is a struct of one u32, and is returned like a u32.
HOST_FUNCTION = ctypes.CFUNCTYPE(
    _U32, POINTER, POINTER, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint32)
)


class Api:
    """libwasmedge. Raises ``Unavailable`` if it is not found or lacks a function."""

    def __init__(self) -> None:
        library = load(VARIABLE, "wasmedge", _PLACES, _HELP, _SONAMES)
        slow, quick = partial(lean, library), partial(lean, holding_gil(library))
        self.library = library._name
        self.version = quick("WasmEdge_VersionGet", ctypes.c_char_p)().decode()
        self.message = quick("WasmEdge_ResultGetMessage", ctypes.c_char_p, _U32)
        self.configure = quick("WasmEdge_ConfigureCreate", POINTER)
        self._set_max_pages = quick("WasmEdge_ConfigureSetMaxMemoryPage", None, POINTER, _U64)
        self.measure_cost = quick(
            "WasmEdge_ConfigureStatisticsSetCostMeasuring", None, POINTER, ctypes.c_bool
        )
        self.statistics = quick("WasmEdge_StatisticsCreate", POINTER)
        self.set_cost_limit = quick("WasmEdge_StatisticsSetCostLimit", None, POINTER, _U64)
        self.loader = quick("WasmEdge_LoaderCreate", POINTER, POINTER)
        self.parse = slow(
            "WasmEdge_LoaderParseFromBytes", _U32, POINTER, ctypes.POINTER(POINTER), String
        )
        self.validator = quick("WasmEdge_ValidatorCreate", POINTER, POINTER)
        self.validate = slow("WasmEdge_ValidatorValidate", _U32, POINTER, POINTER)
        self.store = quick("WasmEdge_StoreCreate", POINTER)
        self.executor = quick("WasmEdge_ExecutorCreate", POINTER, POINTER, POINTER)
        self.register_import = slow(
            "WasmEdge_ExecutorRegisterImport", _U32, POINTER, POINTER, POINTER
        )
        self.instantiate = slow(
            "WasmEdge_ExecutorInstantiate",
            _U32,
            POINTER,
            ctypes.POINTER(POINTER),
            POINTER,
            POINTER,
        )
        self.register = slow(
            "WasmEdge_ExecutorRegister",
            _U32,
            POINTER,
            ctypes.POINTER(POINTER),
            POINTER,
            POINTER,
            String,
        )
        self.invoke = slow(
            "WasmEdge_ExecutorInvoke", _U32, POINTER, POINTER, POINTER, _U32, POINTER, _U32
        )
        self.invoke_async = slow(
            "WasmEdge_ExecutorAsyncInvoke", POINTER, POINTER, POINTER, POINTER, _U32
        )
        self.async_wait = slow("WasmEdge_AsyncWait", None, POINTER)
        self.async_cancel = quick("WasmEdge_AsyncCancel", None, POINTER)
        self.module = quick("WasmEdge_ModuleInstanceCreate", POINTER, String)
        lists = (POINTER, _U32) * 3
        self.wasi: Callable[..., int]
        try:
            self.wasi = quick(
                "WasmEdge_ModuleInstanceCreateWASIWithFds", POINTER, *lists, *(ctypes.c_int32,) * 3
            )
            #: Whether a guest can have other standard streams than its process.
            self.redirects = True
        except Unavailable:
            inherits = quick("WasmEdge_ModuleInstanceCreateWASI", POINTER, *lists)
            self.wasi = lambda *given: inherits(*given[: len(lists)])
            self.redirects = False
        self.exit_code = quick("WasmEdge_ModuleInstanceWASIGetExitCode", _U32, POINTER)
        types = (POINTER, _U32) * 2
        self.function_type = quick("WasmEdge_FunctionTypeCreate", POINTER, *types)
        self.function = quick(
            "WasmEdge_FunctionInstanceCreate", POINTER, POINTER, HOST_FUNCTION, POINTER, _U64
        )
        self._add_function = quick(
            "WasmEdge_ModuleInstanceAddFunction", None, POINTER, String, POINTER
        )
        self.find_function = quick("WasmEdge_ModuleInstanceFindFunction", POINTER, POINTER, String)
        self.type_of = quick("WasmEdge_FunctionInstanceGetFunctionType", POINTER, POINTER)
        self.parameters = self._types(quick, "Parameters")
        self.results = self._types(quick, "Returns")
        self.frame_module = quick("WasmEdge_CallingFrameGetModuleInstance", POINTER, POINTER)
        self.find_memory = quick("WasmEdge_ModuleInstanceFindMemory", POINTER, POINTER, String)
        self.memory_pages = quick("WasmEdge_MemoryInstanceGetPageSize", _U32, POINTER)
        self.memory_pointer = quick(
            "WasmEdge_MemoryInstanceGetPointer", POINTER, POINTER, _U64, _U64
        )
        self.delete = {
            kind: slow(f"WasmEdge_{kind}Delete", None, POINTER)
            for kind in (
                "Configure Statistics Loader Validator ASTModule Store Executor ModuleInstance "
                "FunctionType FunctionInstance Async"
            ).split()
        }
        numbers = {I32: "I32", I64: "I64", F32: "F32", F64: "F64"}
        #: The engine's value type for each kind of number.
        self.kinds: dict[int, int] = {
            kind: quick(f"WasmEdge_ValTypeGen{name}", _U64)() for kind, name in numbers.items()
        }
        # Tests for the reverse: value types of one kind can differ in their padding.
        self._tests = {
            kind: quick(f"WasmEdge_ValTypeIs{name}", ctypes.c_bool, _U64)
            for kind, name in numbers.items()
        }
        # By default every trap prints a dozen lines.
        slow("WasmEdge_LogOff", None)()

    def kind_of(self, word: int) -> int:
        """The kind of number that a value type stands for, or -1 for a reference."""
        return next((kind for kind, test in self._tests.items() if test(word)), -1)

    def set_max_pages(self, configure: int, pages: int) -> None:
        """Set a memory's maximum in pages. More than 32 bits mean the largest possible memory."""
        self._set_max_pages(configure, min(pages, _MAX_PAGES))

    def add_function(self, module: int, name: str, function: int) -> bool:
        """Add a function to a module instance, which then owns it. Returns whether it was added."""
        self._add_function(module, String.of(name), function)
        return bool(self.find_function(module, String.of(name)))

    @staticmethod
    def _types(quick: partial[Any], which: str) -> Callable[[int], list[int]]:
        length = quick(f"WasmEdge_FunctionTypeGet{which}Length", _U32, POINTER)
        get = quick(f"WasmEdge_FunctionTypeGet{which}", _U32, POINTER, POINTER, _U32)

        def types(function_type: int) -> list[int]:
            found = (_U64 * length(function_type))()
            get(function_type, ctypes.addressof(found), len(found))
            return list(found)

        return types


#: The library, once per process.
api = Once(Api)
