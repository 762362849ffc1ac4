"""The functions of wasm_export.h that this runtime calls, and WAMR's state, which is process-wide.

Everything here is initialised once and stays until the process ends: WAMR has one runtime and one
list of native symbols.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable
from functools import partial

from wasi_nn.errors import Unavailable, UsageError
from wasi_nn.runtime.library import POINTER, Once, holding_gil, lean, load
from wasi_nn.runtime.process import in_own_process
from wasi_nn.runtime.values import Value

VARIABLE = "WASI_NN_LIBIWASM"
_HELP = "build WAMR's shared library (libiwasm, see runtimes/wamr/README.md)"
_U32, _STRING = ctypes.c_uint32, ctypes.c_char_p
_FATAL = 0
# WASI's errno for a pointer outside the memory.
_FAULT = 21

#: ``void (*)(wasm_exec_env_t, uint64_t *)``: a raw native function. Its values are 8 bytes apart.
NATIVE = ctypes.CFUNCTYPE(None, POINTER, ctypes.POINTER(ctypes.c_uint32))


class NativeSymbol(ctypes.Structure):
    """lib_export.h. WAMR keeps these pointers, and reads them whenever it loads a module."""

    _fields_ = [
        ("symbol", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("signature", ctypes.c_char_p),
        ("attachment", ctypes.c_void_p),
    ]


class InstantiationArgs(ctypes.Structure):
    """wasm_export.h."""

    _fields_ = [
        ("stack_size", ctypes.c_uint32),
        ("heap_size", ctypes.c_uint32),
        ("max_memory_pages", ctypes.c_uint32),
    ]


def needs_own_process() -> bool:
    """Whether libiwasm would install its SIGSEGV handler among other code. Raises ``Unavailable``.

    A library built with hardware bounds checks installs that handler again in each thread that uses
    WAMR, and saves the previous handler in a variable of the process. From the second thread on
    the handler calls itself: a crash of other code, or a trap of another engine's guest, hangs.
    """
    return not in_own_process() and _has(_load(), "os_thread_signal_init")


class _Prepared(threading.local):
    """Whether WAMR knows this thread."""

    yet = False


class Api:
    """libiwasm, initialised. Raises ``Unavailable`` if it is not found or lacks a function."""

    def __init__(self) -> None:
        library = _load()
        slow, quick = partial(lean, library), partial(lean, holding_gil(library))
        self.init = slow("wasm_runtime_init", ctypes.c_bool)
        self.set_log_level = slow("wasm_runtime_set_log_level", None, ctypes.c_int)
        self.init_thread = quick("wasm_runtime_init_thread_env", ctypes.c_bool)
        symbols = (_STRING, ctypes.POINTER(NativeSymbol))
        self.register = quick("wasm_runtime_register_natives_raw", ctypes.c_bool, *symbols, _U32)
        self.unregister = quick("wasm_runtime_unregister_natives", ctypes.c_bool, *symbols)
        self.load = slow("wasm_runtime_load", POINTER, POINTER, _U32, _STRING, _U32)
        self.unload = quick("wasm_runtime_unload", None, POINTER)
        lists = (POINTER, _U32, POINTER, _U32, POINTER, _U32, POINTER, ctypes.c_int)
        stdio = (ctypes.c_int64,) * 3
        self.set_wasi_args = quick("wasm_runtime_set_wasi_args_ex", None, POINTER, *lists, *stdio)
        self.instantiate = slow(
            "wasm_runtime_instantiate_ex",
            POINTER,
            POINTER,
            ctypes.POINTER(InstantiationArgs),
            _STRING,
            _U32,
        )
        self.deinstantiate = slow("wasm_runtime_deinstantiate", None, POINTER)
        self.exec_env = quick("wasm_runtime_get_exec_env_singleton", POINTER, POINTER)
        self.lookup = quick("wasm_runtime_lookup_function", POINTER, POINTER, _STRING)
        self.param_count = quick("wasm_func_get_param_count", _U32, POINTER, POINTER)
        self.result_count = quick("wasm_func_get_result_count", _U32, POINTER, POINTER)
        self.param_types = quick("wasm_func_get_param_types", None, POINTER, POINTER, POINTER)
        self.result_types = quick("wasm_func_get_result_types", None, POINTER, POINTER, POINTER)
        values = (_U32, ctypes.POINTER(Value)) * 2
        self.call = slow("wasm_runtime_call_wasm_a", ctypes.c_bool, POINTER, POINTER, *values)
        self.get_exception = quick("wasm_runtime_get_exception", _STRING, POINTER)
        self.set_exception = quick("wasm_runtime_set_exception", None, POINTER, _STRING)
        self.clear_exception = quick("wasm_runtime_clear_exception", None, POINTER)
        self.terminate = slow("wasm_runtime_terminate", None, POINTER)
        self.instance_of = quick("wasm_runtime_get_module_inst", POINTER, POINTER)
        self.memory_of = quick("wasm_runtime_get_default_memory", POINTER, POINTER)
        self.memory_pages = quick("wasm_memory_get_cur_page_count", ctypes.c_uint64, POINTER)
        self.page_bytes = quick("wasm_memory_get_bytes_per_page", ctypes.c_uint64, POINTER)
        self.memory_base = quick("wasm_memory_get_base_address", POINTER, POINTER)
        # The functions of its WASI, which most builds show, and those that were asked for.
        self._wasi_functions: Callable[..., int] | None = None
        self._natives: dict[str, Callable[..., int]] = {}
        if _has(library, "get_libc_wasi_export_apis"):
            self._wasi_functions = quick(
                "get_libc_wasi_export_apis", _U32, ctypes.POINTER(ctypes.POINTER(NativeSymbol))
            )
        three = (ctypes.POINTER(_U32),) * 3
        version = quick("wasm_runtime_get_version", None, *three)
        # Only a library built with the thread manager checks for a request to stop.
        self.interrupts = _has(library, "wasm_runtime_spawn_exec_env")
        # Only a library built with instruction metering counts fuel.
        self.meters = _has(library, "wasm_runtime_set_instruction_count_limit")
        if self.meters:
            self.set_fuel = quick(
                "wasm_runtime_set_instruction_count_limit", None, POINTER, ctypes.c_int
            )
        _leave_sigusr1(library)
        if not self.init():
            raise Unavailable(f"{library._name} could not initialise WAMR")
        self._prepared = _Prepared()
        # By default WAMR prints warnings to the standard output, for every import among others.
        self.set_log_level(_FATAL)
        numbers = [_U32(), _U32(), _U32()]
        version(*map(ctypes.byref, numbers))
        self.version = ".".join(str(number.value) for number in numbers)
        #: Held while the list of native symbols is changed or read.
        self.linking = threading.RLock()

    def prepare_thread(self) -> None:
        """Tell WAMR about this thread, once. It may refuse to work on any other."""
        if not self._prepared.yet:
            if not self.init_thread():
                raise MemoryError("WAMR could not prepare the thread")
            self._prepared.yet = True

    def own_wasi(self, name: str) -> Callable[..., int]:
        """A function of WAMR's WASI. Its parameters are the execution environment, the address and
        the size of the guest's memory, and then the guest's own. Raises ``UsageError`` for a
        library that does not show it."""
        if name in self._natives:
            return self._natives[name]
        if self._wasi_functions is not None:
            symbols = ctypes.POINTER(NativeSymbol)()
            for number in range(self._wasi_functions(ctypes.byref(symbols))):
                symbol = symbols[number]
                if symbol.symbol == name.encode():
                    # (Two threads may make it at once. Both are right.)
                    self._natives[name] = _native(symbol)
                    return self._natives[name]
        raise UsageError(
            f"this libiwasm does not show its {name}, which a guest with sockets needs; build it "
            "as runtimes/wamr/README.md says"
        )


def _native(symbol: NativeSymbol) -> Callable[..., int]:
    kinds = symbol.signature.decode().partition(")")[0].removeprefix("(")
    types = [ctypes.c_void_p if kind == "*" else _U32 for kind in kinds]
    function = ctypes.CFUNCTYPE(_U32, POINTER, *types)(symbol.function)
    pointers = [kind == "*" for kind in kinds]

    def call(exec_env: int, base: int, size: int, *arguments: int) -> int:
        given = []
        for argument, is_pointer in zip(arguments, pointers, strict=True):
            if is_pointer and argument >= size:
                return _FAULT
            given.append(base + argument if is_pointer else argument)
        errno: int = function(exec_env, *given)
        return errno

    return call


def _load() -> ctypes.CDLL:
    return load(VARIABLE, "iwasm", help=_HELP)


def _leave_sigusr1(library: ctypes.CDLL) -> None:
    """Leave SIGUSR1 to the program, which may handle it. WAMR wakes threads with a signal. It
    handles that signal and blocks it in each thread. SIGUSR1 is only its default."""
    if hasattr(signal, "SIGRTMAX") and _has(library, "os_set_signal_number_for_blocking_op"):
        choose = lean(library, "os_set_signal_number_for_blocking_op", None, ctypes.c_int)
        choose(signal.SIGRTMAX - 4)


def _has(library: ctypes.CDLL, name: str) -> bool:
    return hasattr(library, name)


#: The library, once per process.
api = Once(Api)
