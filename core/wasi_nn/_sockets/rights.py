"""Which addresses a guest may bind and reach, by the rules of its policy."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from wasi_nn._abi.guard import Observer
from wasi_nn._policy.network import Address, Rule, connecting, listening, normal
from wasi_nn._sockets.errnos import ACCES, MFILE, WasiError
from wasi_nn.escaping import logger, visible
from wasi_nn.policy import Policy
from wasi_nn.runtime.pause import Pause

log = logger("wasi_nn")
_LOCALHOST = ip_address("127.0.0.1"), ip_address("::1")
# How many different refusals are logged. All of them are counted.
_MOST_SAID = 100
# How often a guest that waits for a name looks whether it must stop, in seconds.
_LOOK_SECONDS = 0.02


class Rights:
    """The rights of one guest. Every policy that was laid over another one must allow an address.

    A refusal raises ``WasiError``, is counted, and is logged once for each address."""

    def __init__(self, policy: Policy, observer: Observer, pause: Pause) -> None:
        self._listen = _rules(policy.listen, listening)
        self._connect = _rules(policy.connect, connecting)
        #: Whether the guest may be a server: one of datagrams answers whoever asked it.
        self.serve = bool(self._listen)
        self._most = policy.limits.sockets
        self._observer = observer
        self._pause = pause
        self._said: set[tuple[str, str]] = set()
        # The addresses of the names that the rules have.
        self._resolved: dict[str, frozenset[Address]] = {}

    def listeners(self) -> list[tuple[Address, int]]:
        """The addresses and ports that the rules name one by one."""
        found = []
        for rule in self._listen[0] if self._listen else ():
            for network in rule.networks:
                if rule.port is not None and network.num_addresses == 1:
                    found.append((network.network_address, rule.port))
        return [each for each in found if self._may_bind(*each)]

    def bound(self, address: Address, port: int, datagrams: bool) -> Address:
        """Where a socket binds that the guest binds to ``address``. That is the same address or, if
        the guest names all addresses and the rules only one, that one."""
        address = normal(address)
        if self._may_bind(address, port):
            return address
        if address.is_unspecified:
            for narrower, its_port in self.listeners():
                same = address.version == narrower.version or address.version == 6
                if its_port == port and same:
                    return narrower
            # It may send datagrams, and the system would choose this port for it.
            if datagrams and port == 0 and any(self._connect):
                return address
        raise self._refused("listen", _named(address, port), "bind")

    def check_connect(self, address: Address, port: int) -> None:
        """Refuse an address that the guest may not reach."""
        target = normal(address)
        if target.is_unspecified:
            # The system takes it for this machine.
            target = _LOCALHOST[target.version == 6]
        if not self._connect or not all(
            any(rule.has(target, port) or self._by_name(rule, target, port) for rule in rules)
            for rules in self._connect
        ):
            raise self._refused("connect", _named(address, port), "reach")

    def resolve(self, name: str) -> list[Address]:
        """The addresses of a name that the guest may resolve. Raises ``OSError``, too."""
        name = name.lower().rstrip(".")
        with contextlib.suppress(ValueError):
            return [ip_address(name)]
        if name == "localhost":
            return [*_LOCALHOST]
        everything = all(any(map(_is_everything, rules)) for rules in self._connect)
        if not self._connect or not (
            everything or all(any(rule.name == name for rule in rules) for rules in self._connect)
        ):
            raise self._refused("connect", f"{visible(name)}:PORT", "resolve")
        found = self._lookup(name)
        if not everything:
            self._resolved[name] = self._resolved.get(name, frozenset()) | frozenset(found)
        return found

    def check_count(self, count: int) -> None:
        """Refuse a socket to a guest that has ``count``."""
        if count >= self._most:
            self._observer.refuse("sockets")
            self._say("sockets", "", f"the guest has {count} sockets, the most that it may")
            raise WasiError(MFILE)

    def _may_bind(self, address: Address, port: int) -> bool:
        return bool(self._listen) and all(
            any(rule.has(address, port) for rule in rules) for rules in self._listen
        )

    def _by_name(self, rule: Rule, address: Address, port: int) -> bool:
        """Whether the address is one of the rule's name."""
        name = rule.name
        if name is None or not rule.allows(port):
            return False
        if name not in self._resolved:
            try:
                self._resolved[name] = frozenset(self._lookup(name))
            except OSError:
                return False
        return address in self._resolved[name]

    def _lookup(self, name: str) -> list[Address]:
        """Ask the system, which can take long, in a thread: the guest may have to stop."""
        found: list[Address] = []
        failures: list[OSError] = []

        def ask() -> None:
            try:
                for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
                    found.append(normal(ip_address(str(entry[4][0]).partition("%")[0])))
            except OSError as error:
                failures.append(error)
            except UnicodeError:
                failures.append(socket.gaierror(socket.EAI_NONAME, "not a name"))

        thread = threading.Thread(target=ask, name="wasi-nn-resolve", daemon=True)
        thread.start()
        while thread.is_alive():
            self._pause.wait(0)
            thread.join(_LOOK_SECONDS)
        if failures:
            raise failures[0]
        return list(dict.fromkeys(found))

    def _refused(self, rule: str, address: str, verb: str) -> WasiError:
        self._observer.refuse(rule)
        self._say(
            rule,
            address,
            f"the guest may not {verb} {address} (--{rule} {address} would allow it, and "
            f"Policy({rule}=…) in Python)",
        )
        return WasiError(ACCES)

    def _say(self, rule: str, address: str, text: str) -> None:
        if (rule, address) in self._said or len(self._said) >= _MOST_SAID:
            return
        self._said.add((rule, address))
        with contextlib.suppress(Exception):
            log.warning("rule %s: %s", rule, text)


def _rules(layers: object, each: Callable[[str], Rule]) -> list[Sequence[Rule]]:
    """The rules of the policies that were laid over each other."""
    if layers is None:
        return []
    assert isinstance(layers, tuple)
    return [[each(text) for text in sorted(layer)] for layer in layers]


def _is_everything(rule: Rule) -> bool:
    return len(rule.networks) > 1 and rule.name is None


def _named(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
