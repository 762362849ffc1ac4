"""What waits in the queue: one computation of one context, and the batch that it is part of."""

from __future__ import annotations

import _thread
from collections.abc import Hashable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Union

from wasi_nn.errors import NnError
from wasi_nn.types import Tensor

if TYPE_CHECKING:
    from wasi_nn._models.batching.instance import Instance

#: An input or output: its index, or a name that the graph does not describe.
Key = Union[int, str]
#: The outputs of a computation by key, each a tensor or why there is none.
Outputs = Mapping[Key, Union[Tensor, NnError]]


class NotSeparable(Exception):
    """A batch's outputs cannot be split between its members, or the model takes no batch. The text
    says why."""


class Trial:
    """A batch that failed, while its members are computed one by one."""

    def __init__(self, look: Hashable, members: int, error: BaseException) -> None:
        self.look = look
        self.reason = f"{members} inputs together failed ({error}), and each of them alone did not"
        self._left = members

    def was_wrong(self, error: BaseException | None) -> bool:
        """Count a member's end. True for the last one, if none has failed: then the batch was the
        reason, and not a member."""
        if error is None:
            self._left -= 1
        return not self._left


class Request:
    """A computation of one context.

    Those of the same ``look`` (the inputs' keys, types and dimensions but the first) can be one
    batch; None stands alone. ``rows`` is the first dimension, ``thread`` who computes. ``buffers``
    are the context's earlier outputs, whose memory is used again."""

    __slots__ = (
        *("batch", "buffers", "done", "error", "inputs", "look", "outputs"),
        *("came", "rows", "thread", "trial", "wanted", "woken"),
    )

    def __init__(
        self,
        inputs: Mapping[Key, Tensor],
        look: Hashable | None,
        rows: int,
        thread: int,
        buffers: Outputs,
        wanted: Sequence[Key] = (),
    ) -> None:
        self.inputs = inputs
        self.look = look
        self.rows = rows
        self.thread = thread
        self.buffers = buffers
        #: Outputs that no context of the graph has asked for before.
        self.wanted = wanted
        self.came = monotonic()
        self.outputs: Outputs = {}
        self.batch: Batch | None = None
        self.trial: Trial | None = None
        self.done = False
        self.error: BaseException | None = None
        self.woken = _thread.allocate_lock()
        self.woken.acquire()

    def wake(self) -> None:
        """Let its thread look again. (With the queue's mutex: nobody else releases the lock.)"""
        if self.woken.locked():
            self.woken.release()

    def finish(self, error: BaseException | None) -> None:
        """It has its outputs, or an error."""
        self.error, self.done = error, True
        self.wake()


class Batch:
    """Requests that are computed at once, by the thread of the first one."""

    def __init__(self, members: Sequence[Request], instance: Instance) -> None:
        self.members = members
        self.instance = instance
        self.stopped = False
        self.began = monotonic()

    def stop(self) -> None:
        """Make the computation fail soon, where the library can. (With the queue's mutex: the
        instance is this batch's.)"""
        self.stopped = True
        self.instance.cancel()
