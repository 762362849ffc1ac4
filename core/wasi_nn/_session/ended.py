"""What takes the place of a context whose computation was ended by a quota."""

from __future__ import annotations

from typing import NoReturn

from wasi_nn.backend import ExecutionContext, Generation, StreamingContext
from wasi_nn.errors import InvalidArgument
from wasi_nn.types import Tensor


class EndedContext(StreamingContext):
    """A context that was cancelled. It can be closed, and tells the reason for everything else."""

    def __init__(self, context: ExecutionContext, reason: str) -> None:
        self._context = context
        self._reason = reason

    def _refuse(self) -> NoReturn:
        raise InvalidArgument(
            f"a computation was ended here: open another context ({self._reason})"
        )

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        self._refuse()

    def compute(self) -> None:
        self._refuse()

    def get_output(self, key: int | str) -> Tensor:
        self._refuse()

    def compute_single(self) -> None:
        self._refuse()

    def get_output_single(self, key: int | str) -> Tensor:
        self._refuse()

    def fini_single(self) -> None:
        self._refuse()

    def generation(self) -> Generation | None:
        return self._context.generation()

    def close(self) -> None:
        self._context.close()
