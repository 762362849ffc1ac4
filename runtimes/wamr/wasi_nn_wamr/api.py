"""The functions of wasm_export.h that the adapter calls, and WAMR's state, which is the process's.

Everything here is initialised once and stays until the process ends: WAMR has one runtime, one list
of native symbols, and signal handlers of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
from collections.abc import Iterator
from functools import partial

from wasi_nn.errors import Unavailable
from wasi_nn.runtime.library import POINTER, Once, holding_gil, lean, load
from wasi_nn.runtime.values import Value
from wasi_nn_wamr.handlers import Handlers

VARIABLE = "WASI_NN_LIBIWASM"
_HELP = "build WAMR's shared library (libiwasm, see runtimes/wamr/README.md)"
_U32, _STRING = ctypes.c_uint32, ctypes.c_char_p
_FATAL = 0

#: ``void (*)(wasm_exec_env_t, uint64_t *)``: a raw native, whose values are 8 bytes apart.
NATIVE = ctypes.CFUNCTYPE(None, POINTER, ctypes.POINTER(ctypes.c_uint32))


class NativeSymbol(ctypes.Structure):
    """lib_export.h; WAMR keeps these pointers, and reads them whenever it loads a module."""

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


class _Depth(threading.local):
    """How many times deep the thread is prepared."""

    count = 0


class Api:
    """libiwasm, initialised. Raises ``Unavailable`` where it is not found or lacks a function."""

    def __init__(self) -> None:
        library = load(VARIABLE, "iwasm", help=_HELP)
        slow, quick = partial(lean, library), partial(lean, holding_gil(library))
        self.init = slow("wasm_runtime_init", ctypes.c_bool)
        self.set_log_level = slow("wasm_runtime_set_log_level", None, ctypes.c_int)
        self.init_thread = quick("wasm_runtime_init_thread_env", ctypes.c_bool)
        self.destroy_thread = quick("wasm_runtime_destroy_thread_env", None)
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
        three = (ctypes.POINTER(_U32),) * 3
        version = quick("wasm_runtime_get_version", None, *three)
        # Only a library built with the thread manager looks at a request to stop ...
        self.interrupts = _has(library, "wasm_runtime_spawn_exec_env")
        # ... and only one with instruction metering counts.
        self.meters = _has(library, "wasm_runtime_set_instruction_count_limit")
        if self.meters:
            self.set_fuel = quick(
                "wasm_runtime_set_instruction_count_limit", None, POINTER, ctypes.c_int
            )
        self._handlers = Handlers()
        _leave_sigusr1(library)
        if not self.init():
            raise Unavailable(f"{library._name} could not initialise WAMR")
        self._handlers.initialised()
        # (wasm_runtime_thread_env_inited would tell, but says yes to every thread when the library
        # was built without AOT.)
        self._depth = _Depth()
        if threading.current_thread() is threading.main_thread():
            self._depth.count = 1  # by init, and for good
        else:
            # The pages that guard its stack would stay there for the next thread that gets it.
            self.destroy_thread()
        # Otherwise it prints warnings to the standard output, among them one for every import.
        self.set_log_level(_FATAL)
        numbers = [_U32(), _U32(), _U32()]
        version(*map(ctypes.byref, numbers))
        self.version = ".".join(str(number.value) for number in numbers)
        #: Held while the list of native symbols is being changed or read.
        self.linking = threading.RLock()

    @contextlib.contextmanager
    def thread(self) -> Iterator[None]:
        """Prepare this thread for WAMR, which refuses to work on any other, and undo that."""
        depth = self._depth
        if not depth.count:
            with self._handlers.preparing():
                prepared = self.init_thread()
            if not prepared:
                raise MemoryError("WAMR could not prepare the thread")
        depth.count += 1
        try:
            yield
        finally:
            depth.count -= 1
            if not depth.count:
                self.destroy_thread()


def _leave_sigusr1(library: ctypes.CDLL) -> None:
    """WAMR wakes threads with a signal, which it takes over and blocks in each thread: SIGUSR1,
    unless it is told another. Programs have handlers for that one; hardly any for this."""
    if hasattr(signal, "SIGRTMAX") and _has(library, "os_set_signal_number_for_blocking_op"):
        choose = lean(library, "os_set_signal_number_for_blocking_op", None, ctypes.c_int)
        choose(signal.SIGRTMAX - 4)


def _has(library: ctypes.CDLL, name: str) -> bool:
    return hasattr(library, name)


#: The one library of the process.
api = Once(Api)
