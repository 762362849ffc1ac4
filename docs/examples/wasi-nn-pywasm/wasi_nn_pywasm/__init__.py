"""pywasm, an interpreter in pure Python, as a wasi-nn runtime."""

import importlib.util
from importlib.metadata import version

from wasi_nn import errors, hookimpl, runtime
from wasi_nn.types import Availability


class Module(runtime.Module):
    def __init__(self, wasm):
        self._wasm = wasm

    def prepare(self, functions, wasi, limits):
        from wasi_nn_pywasm.instance import Instance

        return Instance(self._wasm, functions, wasi)


class Pywasm(runtime.Runtime):
    name = "pywasm"  # what people write: --runtime pywasm
    features = runtime.RuntimeFeatures(wasi=False, zero_copy_memory=False, interrupt=True)
    survives_fork = True

    def availability(self):
        if importlib.util.find_spec("pywasm") is None:
            return Availability(False, 'pywasm is not installed; run "pip install pywasm"')
        return Availability(True, f"pywasm {version('pywasm')}")

    def compile(self, wasm, limits):
        from wasi_nn_pywasm.instance import parse

        try:
            parse(wasm)
        except Exception as error:
            raise errors.UsageError(f"pywasm cannot load the module: {error!r}") from None
        return Module(wasm)


@hookimpl
def wasi_nn_runtimes():
    return [Pywasm()]
