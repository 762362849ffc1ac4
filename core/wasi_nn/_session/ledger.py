"""The bytes that the host keeps for one guest, counted against the guest's limits.

Three things count: the models that are the guest's alone, the tensors and errors of the component
ABI, and what an execution context takes (its inputs, and what its backend reserves). All of them
count as host memory. Tensors have a limit of their own too, and so have the models that the guest
has brought.
"""

from __future__ import annotations

from wasi_nn.errors import QuotaExceeded
from wasi_nn.limits import Limits

#: A limit for those who have none.
_UNLIMITED = 1 << 63


class _Model:
    """A model's memory, for as long as the guest has a graph or a context of it."""

    users = 0

    def __init__(self, memory: object, size: int, name: str | None) -> None:
        # The memory is kept so that no other object gets its identity.
        self.memory, self.size, self.name = memory, size, name


class Ledger:
    """What one guest has reserved. Without limits it counts, and refuses nothing. Used by one
    thread at a time."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits
        # Host memory, once it is known.
        self._limit: int | None = None
        self.reserved = 0
        #: Bytes that further tensors may have.
        self.tensor_room = _UNLIMITED if limits is None else limits.tensor_bytes
        self._brought = 0
        self._models: dict[int, _Model] = {}

    def check(self, size: int) -> None:
        """Raise ``QuotaExceeded`` if ``size`` bytes more are above the limit."""
        if self._limits is None:
            return
        limit = self._limit
        if limit is None:
            limit = self._limit = self._limits.host_memory_bytes()
        if self.reserved + size > limit:
            raise QuotaExceeded(
                "host-memory",
                f"the host holds {self.reserved} bytes of models, tensors and contexts for the "
                f"guest: {size} more would be above its limit of {limit}",
            )

    def check_tensor(self, size: int) -> None:
        """Raise ``QuotaExceeded`` if a tensor of ``size`` bytes is above a limit."""
        if size > self.tensor_room:
            raise QuotaExceeded(
                "tensor-bytes",
                f"a tensor takes {size} bytes, and the guest's further ones may take "
                f"{self.tensor_room}",
            )
        self.check(size)

    def check_output(self, size: int) -> None:
        """Raise ``QuotaExceeded`` if an output of ``size`` bytes is above the limit on tensors."""
        if size > self.tensor_room:
            raise QuotaExceeded(
                "tensor-bytes",
                f"the output takes {size} bytes, and the guest's further tensors may take "
                f"{self.tensor_room}",
            )

    def check_brought(self, size: int) -> None:
        """Raise ``QuotaExceeded`` if a model of the guest's own is above a limit."""
        if self._limits is not None and self._brought + size > self._limits.model_bytes:
            raise QuotaExceeded(
                "model-bytes",
                f"the guest holds {self._brought} bytes of models that it has brought: {size} more "
                f"would be above its limit of {self._limits.model_bytes}",
            )
        self.check(size)

    def reserve(self, size: int) -> None:
        """Count ``size`` bytes more. Raises ``QuotaExceeded`` above the limit, and then counts
        nothing."""
        self.check(size)
        self.reserved += size

    def release(self, size: int) -> None:
        """Count ``size`` bytes less."""
        self.reserved -= size

    def reserve_tensor(self, size: int) -> None:
        """Count a tensor. Raises ``QuotaExceeded`` above a limit, and then counts nothing."""
        self.check_tensor(size)
        self.add_tensor(size)

    def add_tensor(self, size: int) -> None:
        """Count ``size`` bytes of tensors more, or less if it is negative, whatever the limits
        are."""
        self.reserved += size
        self.tensor_room -= size

    def is_further(self, memory: object, name: str) -> bool:
        """Whether a model with this memory is one more than the operator offered under the name:
        the guest has another model of it."""
        return id(memory) not in self._models and any(
            model.name == name for model in self._models.values()
        )

    def open_model(self, memory: object, size: int, name: str | None = None) -> None:
        """Count one user more of a model, and its ``size`` bytes when it is the first. Raises
        ``QuotaExceeded`` above the limit, and then counts nothing."""
        model = self._models.get(id(memory))
        if model is None:
            self.reserve(size)
            model = self._models[id(memory)] = _Model(memory, size, name)
            if name is None:
                self._brought += size
        model.users += 1

    def close_model(self, memory: object) -> None:
        """Count one user less of a model."""
        model = self._models[id(memory)]
        model.users -= 1
        if not model.users:
            del self._models[id(memory)]
            self.release(model.size)
            if model.name is None:
                self._brought -= model.size


class Reservation:
    """What one execution context has reserved. It is also a user of the model, which stays after an
    unload."""

    def __init__(self, ledger: Ledger, memory: object) -> None:
        self._ledger = ledger
        self._memory = memory
        self._size = self._tensors = 0
        ledger.open_model(memory, 0)

    def reserve(self, size: int) -> None:
        """The ``backend.Reserve`` of the context. It gives back no more than it has."""
        if size > 0:
            self._ledger.check(size)
        size = max(size, -self._size)
        self._ledger.reserved += size
        self._size += size

    def add_tensor(self, size: int) -> None:
        """Count ``size`` bytes more of inputs, which are set already."""
        self._ledger.add_tensor(size)
        self._tensors += size

    def release(self) -> None:
        """Give everything back, once."""
        self._ledger.close_model(self._memory)
        self._ledger.release(self._size)
        self._ledger.add_tensor(-self._tensors)
        self._size = self._tensors = 0
