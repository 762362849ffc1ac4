"""Loading TorchScript, torch.export and AOTInductor archives, and the graphs that come of them."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasi_nn.backend import FALLBACK, Builder, ExecutionContext, Graph, LoadOptions, Reserve
from wasi_nn.backend.buffers import DescribedGraph
from wasi_nn.backend.config import threads as number_of_threads
from wasi_nn.backend.files import Kept
from wasi_nn.errors import RuntimeFailure, UnsupportedOperation
from wasi_nn.types import ExecutionTarget, TensorInfo
from wasi_nn_pytorch import archive, effects, operators, program
from wasi_nn_pytorch.archive import Kind
from wasi_nn_pytorch.prints import Printing, logged
from wasi_nn_pytorch.script import ScriptSignature
from wasi_nn_pytorch.signature import Signature

if TYPE_CHECKING:
    import torch


class PytorchGraph(DescribedGraph):
    """A module. ``fresh`` makes another one where a module keeps state between calls; ``writes``
    says that it may write to its arguments, and ``prints`` that it may print."""

    stateless: bool

    def __init__(
        self,
        module: Callable[..., Any],
        signature: Signature,
        device: str,
        fresh: Callable[[], Callable[..., Any]] | None = None,
        writes: bool = False,
        outputs: Sequence[TensorInfo] = (),
        prints: bool = False,
    ) -> None:
        super().__init__(signature.infos, outputs)
        self._module = module
        self._signature = signature
        self._device = device
        self._fresh = fresh
        self._writes = writes
        self.stateless = fresh is None and not prints

    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        from wasi_nn_pytorch.context import PytorchContext

        module = self._fresh() if self._fresh is not None else self._module
        return PytorchContext(module, self._signature, self._device, self._writes)


def load(builder: Builder, options: LoadOptions) -> Graph:
    """Read one archive; see ``Backend.load`` for what it raises."""
    import torch

    threads = number_of_threads(options.config)
    kind = archive.recognise(builder)
    device = _device(options)
    if threads:
        torch.set_num_threads(threads)
    if kind is not Kind.AOTINDUCTOR:
        operators.bring(archive.opened(builder))
    try:
        if kind is Kind.TORCHSCRIPT:
            return _torchscript(builder, device)
        if not isinstance(builder, Path):
            raise RuntimeFailure("only TorchScript can be loaded from bytes")
        if kind is Kind.EXPORTED:
            return _exported(builder, device)
        return _aotinductor(builder, device)
    except (RuntimeError, ValueError, LookupError, OSError, EOFError) as error:
        reason = f"torch rejects the model: {error}"
        if "required keyword attribute" in reason:
            reason += (
                "; torch.jit.optimize_for_inference makes modules that cannot be saved: save "
                "the module that you gave to it, or torch.jit.freeze(module)"
            )
        raise RuntimeFailure(reason) from error


def _device(options: LoadOptions) -> str:
    import torch

    has_gpu = torch.cuda.is_available()
    if options.target is ExecutionTarget.CPU:
        return "cpu"
    if options.target is ExecutionTarget.GPU and has_gpu:
        return "cuda"
    if options.target is ExecutionTarget.AUTO:
        return "cuda" if has_gpu else "cpu"
    if options.allow_fallback:
        return "cpu"
    raise UnsupportedOperation(
        f"the execution target {options.target} is not available: this torch has "
        f"{'cpu and gpu' if has_gpu else 'cpu'}; {FALLBACK}"
    )


@logged()
def _torchscript(builder: Builder, device: str) -> Graph:
    import torch

    source = Kept.of(builder)

    # (Code of the module runs, where it has a __setstate__: here and when it is frozen.)
    @logged()
    def load() -> torch.jit.ScriptModule:
        file = source.path if isinstance(source, Kept) else io.BytesIO(source)
        with warnings.catch_warnings():
            # That TorchScript is deprecated is nothing that who runs a model could change.
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(file, map_location=device).eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return module

    module = load()
    signature = ScriptSignature(module.forward.schema.arguments[1:])
    found = effects.of_script(module, signature.nested)

    def fresh() -> Callable[..., Any]:
        return Printing(load()) if found.prints else load()

    shared = Printing(module) if found.prints else module
    return PytorchGraph(
        shared,
        signature,
        device,
        fresh if found.state else None,
        found.arguments,
        prints=found.prints,
    )


def _exported(path: Path, device: str) -> Graph:
    import torch

    kept = Kept(path)

    def read() -> torch.export.ExportedProgram:
        # torch knows such an archive by its suffix, or takes an open file.
        with open(kept.path, "rb") as file:
            return torch.export.load(file)

    def load() -> Any:
        module = read().module()
        return module if device == "cpu" else module.to(device)

    exported = read()
    found = effects.of_program(exported)
    return PytorchGraph(
        load(),
        program.of_program(exported),
        device,
        load if found.state else None,
        found.arguments,
        program.outputs_of(exported),
    )


def _aotinductor(path: Path, device: str) -> Graph:
    from torch._inductor import aoti_load_package

    # The compiled code reads this at its first run. Without it, it takes any tensor for one of the
    # dimensions that it was compiled for, and reads beyond a smaller one.
    os.environ.setdefault("AOTI_RUNTIME_CHECK_INPUTS", "1")
    package = aoti_load_package(str(path))
    # Nothing tells whether it writes to its arguments.
    return PytorchGraph(package, program.of_package(package.loader), device, writes=True)
