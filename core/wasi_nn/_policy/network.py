"""The rules of a policy for the network: which addresses a guest may bind, and which it may reach.

A rule is a host and a port. A host is an address, a network (``10.0.0.0/8``), a name, or ``*``. A
port is a number, or ``*``. The rule ``*`` allows everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, NamedTuple, NoReturn, Union

from wasi_nn.errors import UsageError

Address = Union[IPv4Address, IPv6Address]
_Network = Union[IPv4Network, IPv6Network]

ANY = "*"
_NAME = re.compile(r"(?=.{1,253}\Z)(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_SPLIT = re.compile(
    r"\[(?P<v6>[^\]]*)\](?::(?P<p6>[^:]*))?|(?P<host>[^:\[\]]*)(?::(?P<port>[^:]*))?"
)


class Rule(NamedTuple):
    """What a guest may bind or reach. A rule has networks, or a name. ``port`` is None for all."""

    networks: tuple[_Network, ...]
    name: str | None
    port: int | None

    def has(self, address: Address, port: int) -> bool:
        """Whether the rule allows an address without a name's help."""
        return self.allows(port) and any(
            address.version == network.version and address in network for network in self.networks
        )

    def allows(self, port: int) -> bool:
        """Whether the rule allows a port."""
        return self.port is None or self.port == port


_ALL = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_LOCALHOST = (ip_network("127.0.0.1"), ip_network("::1"))


def normal(address: Address) -> Address:
    """The address without its form for sockets of IPv6. Both forms reach the same host."""
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=1024)
def listening(text: str) -> Rule:
    """A rule for what a guest may bind. Raises ``UsageError``."""
    host, port = _parts(text) or _refuse("listen", text)
    if host == ANY:
        return Rule(_ALL, None, port)
    if port is None and not text.endswith(ANY):
        _refuse("listen", text)
    if host == "localhost":
        return Rule(_LOCALHOST, None, port)
    try:
        address = ip_address(host)
    except ValueError:
        _refuse("listen", text)
    # The address that stands for all of a host's addresses allows each of them.
    if address.is_unspecified:
        return Rule(_ALL[: 1 if address.version == 4 else 2], None, port)
    return Rule((ip_network(normal(address)),), None, port)


@lru_cache(maxsize=1024)
def connecting(text: str) -> Rule:
    """A rule for what a guest may reach. Raises ``UsageError``."""
    if text.count(":") > 1 and "[" not in text:
        # A network or an address of IPv6, without a port.
        host, port = text, None
    else:
        host, port = _parts(text) or _refuse("connect", text)
    if host == ANY:
        return Rule(_ALL, None, port)
    if host == "localhost":
        return Rule(_LOCALHOST, host, port)
    try:
        return Rule((ip_network(host),), None, port)
    except ValueError as error:
        if "/" in host or ":" in host or not _NAME.fullmatch(host) or ":" not in text:
            _refuse("connect", text, error if "host bits" in str(error) else None)
    return Rule((), host.rstrip("."), port)


def layers(
    what: str, given: Any, everything: bool | None, each: Callable[[str], Rule]
) -> tuple[frozenset[str], ...] | None:
    """The checked rules of one policy, or of several that were laid over each other: the texts in
    small letters. ``everything`` says whether the policy allows all (True), or no more than the
    rules (False). Raises ``UsageError``."""
    if isinstance(given, tuple) and given and all(isinstance(one, frozenset) for one in given):
        return given
    if everything:
        return (frozenset({ANY}),)
    if given is None:
        return None if everything is None else (frozenset(),)
    return (_rules(what, given, each),)


def _rules(what: str, given: object, each: Callable[[str], Rule]) -> frozenset[str]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
        raise UsageError(f"the policy's {what} are {given!r}, and must be a set of rules (texts)")
    texts = set()
    for text in given:
        if not isinstance(text, str):
            raise UsageError(f"the policy's {what} has {text!r}, and must have rules (texts)")
        texts.add(text.strip().lower())
    for text in texts:
        each(text)
    return frozenset(texts)


def _parts(text: str) -> tuple[str, int | None] | None:
    """The host and the port of a rule. Without a port, or with ``*``, the port is None."""
    if text == ANY:
        return ANY, None
    found = _SPLIT.fullmatch(text)
    if found is None:
        return None
    host = found["host"] if found["v6"] is None else found["v6"]
    port = found["port"] if found["v6"] is None else found["p6"]
    if not host or (found["v6"] is not None and ":" not in host):
        return None
    if port is None or port == ANY:
        return host, None
    if not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        return None
    return host, int(port)


def _refuse(option: str, text: str, why: Exception | None = None) -> NoReturn:
    forms = {
        "listen": "ADDRESS:PORT, as in 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:0",
        "connect": "HOST:PORT or a network, as in example.org:443, 10.0.0.0/8 or 10.0.0.0/8:80",
    }
    reason = f" ({why})" if why is not None else ""
    raise UsageError(
        f"the rule {text!r} of {option} is not understood{reason}: write {forms[option]}, "
        "with * for any port, or * for everything"
    )
