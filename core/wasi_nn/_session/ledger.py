"""The bytes that the host keeps for one guest, counted against the guest's limit.

Three things count: the models that are the guest's alone, the tensors and errors of the component
ABI, and what an execution context takes (its inputs, and what its backend reserves).
"""

from __future__ import annotations

from wasi_nn.errors import RuntimeFailure
from wasi_nn.limits import Limits


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
        self.reserved = 0
        self._models: dict[int, _Model] = {}

    def check(self, size: int) -> None:
        """Raise ``RuntimeFailure`` if ``size`` bytes more are above the limit."""
        if self._limits is None:
            return
        limit = self._limits.host_memory_bytes()
        if self.reserved + size > limit:
            raise RuntimeFailure(
                f"the host holds {self.reserved} bytes of models, tensors and contexts for the "
                f"guest: {size} more would be above its limit of {limit}"
            )

    def reserve(self, size: int) -> None:
        """Count ``size`` bytes more. Raises ``RuntimeFailure`` above the limit, and then counts
        nothing."""
        self.check(size)
        self.reserved += size

    def release(self, size: int) -> None:
        """Count ``size`` bytes less."""
        self.reserved -= size

    def is_further(self, memory: object, name: str) -> bool:
        """Whether a model with this memory is one more than the operator offered under the name:
        the guest has another model of it."""
        return id(memory) not in self._models and any(
            model.name == name for model in self._models.values()
        )

    def open_model(self, memory: object, size: int, name: str | None = None) -> None:
        """Count one user more of a model, and its ``size`` bytes when it is the first. Raises
        ``RuntimeFailure`` above the limit, and then counts nothing."""
        model = self._models.get(id(memory))
        if model is None:
            self.reserve(size)
            model = self._models[id(memory)] = _Model(memory, size, name)
        model.users += 1

    def close_model(self, memory: object) -> None:
        """Count one user less of a model."""
        model = self._models[id(memory)]
        model.users -= 1
        if not model.users:
            del self._models[id(memory)]
            self.release(model.size)


class Reservation:
    """What one execution context has reserved. It is also a user of the model, which stays after an
    unload."""

    def __init__(self, ledger: Ledger, memory: object) -> None:
        self._ledger = ledger
        self._memory = memory
        self._size = 0
        ledger.open_model(memory, 0)

    def reserve(self, size: int) -> None:
        """The ``backend.Reserve`` of the context. It gives back no more than it has."""
        if size > 0:
            self._ledger.check(size)
        self.add(max(size, -self._size))

    def add(self, size: int) -> None:
        """Count ``size`` bytes more that are there already, whatever the limit is."""
        self._ledger.reserved += size
        self._size += size

    def release(self) -> None:
        """Give everything back, once."""
        self._ledger.close_model(self._memory)
        self.add(-self._size)
