"""Guests on libwasmer, wasmer's C library (4 and newer), through wasm.h and its wasi.h.

Core serves wasm.h; this module adds wasmer's extensions. wasmer's WASI provides files. Python
provides streams, arguments, variables and exit codes, as with the PyPI package.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from wasi_nn.errors import GuestTrap, UsageError
from wasi_nn.runtime import EngineLimits, HostFunction, Instance, WasiConfig
from wasi_nn.runtime.engine import WASI_MODULES, before, refuse_read_only
from wasi_nn.runtime.library import POINTER, Once, holding_gil, lean, load
from wasi_nn.runtime.open_files import OpenFiles, opens_files
from wasi_nn.runtime.wasi_streams import OF_FILES, Preview1
from wasi_nn.runtime.wasm_c_api import CApi, CApiInstance, CApiModule, Vector
from wasi_nn.wasm.arguments import I32, KINDS
from wasi_nn.wasm.wasi_signatures import SIGNATURES
from wasi_nn_wasmer.runtime import VARIABLE

_HELP = (
    "the wasmer package is for Python 3.10 and older: install it there and give --python "
    "python3.10 (in Python, runtime wasmer@python3.10), or get wasmer's release, which "
    "holds its C library (runtimes/wasmer/README.md),"
)


class WasmerApi(CApi):
    """wasm.h and wasmer's wasi.h. Raises ``Unavailable`` for a library that lacks a function."""

    def __init__(self, library: ctypes.CDLL) -> None:
        super().__init__(library)
        quick = partial(lean, holding_gil(library))
        text, vector = ctypes.c_char_p, ctypes.POINTER(Vector)
        self.version = quick("wasmer_version", text)().decode()
        self.config = quick("wasi_config_new", POINTER, text)
        self.map_directory = quick("wasi_config_mapdir", ctypes.c_bool, POINTER, text, text)
        self.environment = quick("wasi_env_new", POINTER, POINTER, POINTER)
        self.initialize = quick(
            "wasi_env_initialize_instance", ctypes.c_bool, POINTER, POINTER, POINTER
        )
        self.wasi_imports = quick(
            "wasi_get_unordered_imports", ctypes.c_bool, POINTER, POINTER, vector
        )
        self.import_module = quick("wasmer_named_extern_module", vector, POINTER)
        self.import_name = quick("wasmer_named_extern_name", vector, POINTER)
        self.import_extern = quick("wasmer_named_extern_unwrap", POINTER, POINTER)
        self.imports_delete = quick("wasmer_named_extern_vec_delete", None, vector)
        self.delete["environment"] = quick("wasi_env_delete", None, POINTER)


#: The library, once per process.
api = Once(lambda: WasmerApi(load(VARIABLE, "wasmer", help=_HELP)))


class LibraryModule(CApiModule):
    """A module of libwasmer."""

    api: WasmerApi

    def __init__(self, api: WasmerApi, wasm: bytes) -> None:
        super().__init__(api, wasm, "wasmer")
        names = {item.module for item in self.file.imports}
        #: The WASI that the guest imports, if any.
        self.wasi = next((name for name in WASI_MODULES if name in names), None)

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        return LibraryInstance(self, functions, wasi, limits.files)


class LibraryInstance(CApiInstance):
    """An instance whose files are wasmer's."""

    api: WasmerApi

    def __init__(
        self,
        module: LibraryModule,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        files: int | None,
    ) -> None:
        refuse_read_only("wasmer", wasi.preopens)
        self._wasi = wasi
        self._named = Vector()
        self._environment = 0
        self._found: dict[tuple[str, str], int] = {}
        super().__init__(module, functions)
        # wasmer does not limit files.
        self._count = None if files is None else OpenFiles(files, self.refusals)
        self._wasi_name = module.wasi
        self._streams = Preview1(wasi, self.output_failures, self.pause)
        if module.wasi is not None:
            ours = {(f.module, f.name): f for f in self._streams.functions(module.wasi)}
            first = {key: f for key, f in self._functions.items() if key[0] == module.wasi}
            self._functions |= ours
            for key, function in first.items():
                own = ours.get(key)
                call = partial(self._theirs, key) if own is None else own.call
                self._functions[key] = before(function, call)

    def foreign(self, module: int) -> Mapping[tuple[str, str], int]:
        if self._wasi_name is None:
            return {}
        api = self.api
        config = api.config(b"guest")
        refused = [
            str(preopen.host)
            for preopen in self._wasi.preopens
            if not api.map_directory(config, preopen.guest.encode(), str(preopen.host).encode())
        ]
        # The environment owns the configuration: nothing else frees it.
        self._environment = self._own("environment", api.environment(self.store, config))
        if refused:
            raise UsageError(f"wasmer cannot open the directory {refused[0]}")
        if not api.wasi_imports(self._environment, module, ctypes.byref(self._named)):
            return {}
        self._found = found = {}
        count = self._named.size
        for item in (ctypes.c_void_p * count).from_address(self._named.data) if count else ():
            key = _text(api.import_module(item)), _text(api.import_name(item))
            found[key] = api.import_extern(item)
        for name in OF_FILES:
            extern = found.get((self._wasi_name, name))
            if extern:
                self._streams.files[name] = self._file_function(extern)
        if self._count is not None and opens_files(self._module.file, self._wasi):
            for name in ("path_open", "fd_close", "fd_renumber"):
                key = self._wasi_name, name
                if key in found:
                    function = self._own("func", self._counting(self._count, name, found[key]))
                    found[key] = api.func_as_extern(function)
        return found

    def instantiated(self, instance: int) -> None:
        if self._environment:
            self.api.initialize(self._environment, self.store, instance)

    def close(self) -> None:
        self._streams.files.clear()
        if self._named.size:
            self.api.imports_delete(ctypes.byref(self._named))
            self._named = Vector()
        super().close()

    def _counting(self, count: OpenFiles, name: str, extern: int) -> int:
        """A function that counts the files of wasmer's own one."""
        api = self.api
        theirs = api.as_func(extern)
        kinds = [KINDS[kind] for kind in SIGNATURES[name].parameters]

        def trampoline(arguments: Any, results: Any) -> int | None:
            def call() -> int:
                given = [
                    ctypes.cast(vector, ctypes.POINTER(Vector)) for vector in (arguments, results)
                ]
                trap = api.call(theirs, *given)
                if trap:
                    raise GuestTrap(api.trap_text(trap))
                return int(results[1][2])

            def opened() -> int:
                memory = self.memory_now()
                assert memory is not None
                return int.from_bytes(memory.read(numbers[-1], 4), "little")

            try:
                # (The i64 among them are not needed.)
                numbers = arguments[1][2 : 4 * len(kinds) : 4]
                if name == "path_open":
                    errno = count.path_open(call, opened)
                elif name == "fd_close":
                    errno = count.fd_close(call, *numbers)
                else:
                    errno = count.fd_renumber(call, *numbers)
                results[1][0] = I32
                results[1][2] = errno
                return None
            except BaseException as exception:
                return self.host_trap(exception)

        return self.make_function(kinds, [I32], trampoline)

    def _theirs(self, key: tuple[str, str], memory: object, *arguments: int) -> int:
        """Call a function of wasmer's WASI."""
        return self._file_function(self._found[key])(*arguments)

    def _file_function(self, extern: int) -> Callable[..., int]:
        def call(*arguments: int) -> int:
            (errno,) = self.enter(self.api.as_func(extern), arguments)
            return int(errno)

        return call


def _text(vector: ctypes._Pointer[Vector]) -> str:
    name = vector.contents
    return ctypes.string_at(name.data, name.size).decode()
