"""Component interfaces, described without an engine: names, resources, functions and types.

An ABI describes its interfaces with these types, and a runtime turns them into definitions of its
engine. Values are plain Python:

- a u32 is an int, and a string a str
- a ``list<u8>`` is a flat buffer of bytes; a parameter is valid only during the call
- an enum is the name of its case
- a list or tuple is a list or tuple
- a result is a ``Result``
- a resource is the number under which the host keeps it

Whoever receives an ``Own`` owns the resource: its ``drop`` is not called again. A ``Borrow`` is
valid during the call.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Union

from wasi_nn.runtime import EngineLimits, Instance, WasiConfig

__all__ = [
    "U32",
    "Borrow",
    "Bytes",
    "Component",
    "Enumeration",
    "Function",
    "Interface",
    "ListOf",
    "Own",
    "Resource",
    "Result",
    "ResultOf",
    "Text",
    "TupleOf",
    "Type",
    "is_wasi",
    "is_wasi_0_2",
]

# The packages that an engine brings itself, with their interfaces in WASI 0.2.
_PACKAGES = {
    "wasi:cli/": "environment exit stdin stdout stderr terminal-input terminal-output "
    "terminal-stdin terminal-stdout terminal-stderr",
    "wasi:clocks/": "monotonic-clock wall-clock timezone",
    "wasi:filesystem/": "preopens types",
    "wasi:io/": "error poll streams",
    "wasi:random/": "insecure insecure-seed random",
    "wasi:sockets/": "instance-network ip-name-lookup network tcp tcp-create-socket udp "
    "udp-create-socket",
}
_WASI = {package + name for package, names in _PACKAGES.items() for name in names.split()}
_WASI_VERSION = re.compile(r"0\.2\.\d+")


def is_wasi(interface: str) -> bool:
    """Whether an interface is of a package of WASI, which the engine provides."""
    return interface.startswith(tuple(_PACKAGES))


def is_wasi_0_2(interface: str) -> bool:
    """Whether an interface is one of WASI 0.2, which engines that run components have."""
    name, _, version = interface.partition("@")
    return name in _WASI and _WASI_VERSION.fullmatch(version) is not None


class U32(NamedTuple):
    """``u32``."""


class Text(NamedTuple):
    """``string``."""


class Bytes(NamedTuple):
    """``list<u8>``."""


class Enumeration(NamedTuple):
    """``enum``."""

    cases: tuple[str, ...]


class ListOf(NamedTuple):
    """``list<element>``."""

    element: Type


class TupleOf(NamedTuple):
    """``tuple<…>``."""

    elements: tuple[Type, ...]


class Own(NamedTuple):
    """A resource that gets a new owner; ``resource`` is its name."""

    resource: str


class Borrow(NamedTuple):
    """A resource that is lent during the call."""

    resource: str


class ResultOf(NamedTuple):
    """``result<ok, error>``; None stands for ``_``."""

    ok: Type | None
    error: Type | None


#: The type of a parameter or a result.
Type = Union[U32, Text, Bytes, Enumeration, ListOf, TupleOf, Own, Borrow, ResultOf]


class Result(NamedTuple):
    """A value of ``ResultOf``."""

    ok: bool
    value: Any = None


class Function(NamedTuple):
    """A function of an interface, under its name in the component (``[method]tensor.data``).

    ``call(*parameters)`` gives the value of ``result``. An exception ends the guest: the runtime
    turns it into a trap, and raises it again from ``Instance.start``."""

    name: str
    parameters: tuple[Type, ...]
    result: Type | None
    call: Callable[..., Any]


class Resource(NamedTuple):
    """A resource of the host. ``drop`` gets the number of one that the guest has dropped. Names are
    unique among the interfaces of one component."""

    name: str
    drop: Callable[[int], None]


class Interface(NamedTuple):
    """An interface that components can import, under its full name
    (``wasi:nn/tensor@0.2.0-rc-2024-10-28``)."""

    name: str
    resources: Sequence[Resource]
    functions: Sequence[Function]


class Component(ABC):
    """A compiled component, shared by every instance and thread."""

    @abstractmethod
    def check(self, interfaces: Sequence[Interface]) -> None:
        """Raise ``LinkError`` if the component declares a function of the interfaces with another
        type, and ``UsageError`` if it has no `run` of `wasi:cli/run`."""

    @abstractmethod
    def prepare(
        self, interfaces: Sequence[Interface], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        """Make an instance in a store of its own. Its ``start`` calls ``run`` of ``wasi:cli/run``.
        Checks the interfaces, because values have no types."""
