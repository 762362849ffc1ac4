"""What the host remembers of a context, to make it again after its worker has died."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wasi_nn._worker.messages import INLINE
from wasi_nn.backend import Generation, Reserve
from wasi_nn.errors import NnError
from wasi_nn.types import Tensor, TensorType

# Tensors of an input that accumulates, and their bytes.
_MAX_TENSORS, _MAX_BYTES = 1000, 1 << 20


class Input:
    """An input as the worker last accepted it."""

    __slots__ = ("data", "dims", "key", "number", "type")

    def __init__(self, key: int | str, number: int | None, tensor: Tensor) -> None:
        self.key = key
        #: Its index; None if the graph does not describe it.
        self.number = number
        self.type: TensorType = tensor.type
        self.dims = tuple(tensor.dims)
        #: The bytes that travel in messages, or the memory that both processes share.
        self.data: bytes | memoryview = tensor.data
        if self.size <= INLINE:
            self.data = bytes(tensor.data)

    @property
    def size(self) -> int:
        """The bytes of its tensor."""
        return len(self.data)

    @property
    def name(self) -> int | str:
        """The same one for each key of the same input."""
        return self.key if self.number is None else self.number

    def replaces(self, other: Input, accumulates: bool) -> bool:
        """Whether this input is set in place of another one."""
        return self.name == other.name and (not accumulates or self.data == other.data)


class Counted:
    """A ``Reserve`` that knows what it has reserved."""

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve
        self.held = 0

    def __call__(self, size: int) -> None:
        self._reserve(size)
        self.held += size

    def release(self) -> None:
        """Give everything back."""
        self(-self.held)


class Journal:
    """The inputs of a context in the order in which they were set, and its text so far."""

    def __init__(self, reserve: Reserve, whole: bool) -> None:
        self._reserve = Counted(reserve)
        self.inputs: list[Input] = []
        self.text = bytearray()
        #: Whether a context can be made from it.
        self.whole = whole
        #: Bytes of the inputs, without the newest tensor of each.
        self._earlier = 0
        self._before = Generation()
        self._now: Generation | None = None

    def set(self, given: Input, accumulates: bool) -> None:
        """The worker has accepted an input."""
        if not self.whole:
            return
        self.inputs = [old for old in self.inputs if not given.replaces(old, accumulates)]
        self.inputs.append(given)
        if accumulates:
            sizes = [one.size for one in self.inputs if one.name == given.name]
            if len(sizes) > _MAX_TENSORS or sum(sizes) > _MAX_BYTES:
                self.forget()
                return
        # The guest's limit has the newest tensor of each input already.
        newest = {one.name: one.size for one in self.inputs}
        self._earlier = sum(one.size for one in self.inputs) - sum(newest.values())
        self._count()

    def write(self, told: Sequence[bytes]) -> None:
        """The context has told what to keep of its text."""
        for message in told:
            if self.whole:
                if message[:1] == b"\1":
                    self.text.clear()
                self.text += message[1:]
                self._count()

    def _count(self) -> None:
        try:
            self._reserve(self._earlier + len(self.text) - self._reserve.held)
        except NnError:
            self.forget()

    def forget(self) -> None:
        """Remember nothing from now on."""
        self.whole = False
        self.inputs, self.text = [], bytearray()
        self._reserve.release()

    def count(self, generation: Generation | None) -> None:
        """What the present context has generated."""
        self._now = generation

    @property
    def generation(self) -> Generation | None:
        """What the contexts have generated, one after the other."""
        if self._now is None:
            return None if self._before == Generation() else self._before
        return self._before.plus(self._now)

    def begin_again(self) -> None:
        """Another context goes on."""
        self._before = self.generation or Generation()
        self._now = None


class Once:
    """A guest's standard output during a request that may be made again: what it has written
    already is not written again."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._written = self._skip = 0

    def __call__(self, data: bytes) -> None:
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        if skipped < len(data):
            self._written += len(data) - skipped
            self._write(data[skipped:])

    def again(self) -> None:
        """The request is made again."""
        self._skip = self._written
