"""Finding and loading plugins, one by one, so that a broken one stops none of the others."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

import pluggy

from wasi_nn import hookspecs
from wasi_nn._entry_points import EntryPoint, entry_points
from wasi_nn._suggestion import did_you_mean
from wasi_nn.backend import Availability, Backend
from wasi_nn.encodings import EXTRAS, canonical
from wasi_nn.errors import InvalidEncoding, Unavailable, UsageError
from wasi_nn.escaping import visible
from wasi_nn.runtime import Runtime, RuntimeFeatures
from wasi_nn.runtime.name import RuntimeName

#: Engines in the order in which ``auto`` tries them; others follow in the order of their names.
PREFERRED_RUNTIMES = ("wasmtime", "wamr", "wasmedge", "v8", "wasmer")

_OWN_DISTRIBUTION = "wasi-nn"
# What can be written on a command line between colons and equals signs.
_WORD = re.compile(r"[A-Za-z0-9_.+-]+")
_BROKEN = "the plugin is broken: "
_WORD_IS = "a word of letters, digits and - _ . +"


class PluginRecord:
    """What became of one entry point: its backends and runtimes, or the error that broke it."""

    def __init__(self, name: str, distribution: str, version: str) -> None:
        self.name = name
        self.distribution = distribution
        self.version = version
        self.backends: list[Backend] = []
        self.runtimes: list[Runtime] = []
        self.error: str | None = None


class Plugins:
    """The plugins of one host. Nothing is shared between two of these but the code itself."""

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self._manager = pluggy.PluginManager(hookspecs.GROUP)
        self._manager.add_hookspecs(hookspecs)

    @classmethod
    def installed(cls) -> Plugins:
        """All plugins that the environment's distributions name, first-party ones included."""
        plugins = cls()
        # An editable install can list its distribution twice on sys.path: the first one counts.
        seen: set[tuple[str, str]] = set()
        for entry in sorted(entry_points(hookspecs.GROUP), key=_rank):
            if (entry.name, entry.value) not in seen:
                seen.add((entry.name, entry.value))
                plugins._load_entry(entry)
        return plugins

    def register(self, plugin: Any, name: str, distribution: str = "", version: str = "") -> None:
        """Add a plugin object or module by hand (a test, an application's private backend)."""
        record = PluginRecord(name, distribution, version)
        self.records.append(record)
        self._register(record, plugin)

    def _load_entry(self, entry: EntryPoint) -> None:
        record = PluginRecord(entry.name, entry.distribution, entry.version)
        self.records.append(record)
        try:
            plugin = entry.load()
        except (Exception, SystemExit) as error:
            record.error = _explain(error)
            return
        self._register(record, plugin)

    def _register(self, record: PluginRecord, plugin: Any) -> None:
        try:
            _check_hooks(plugin)
            self._manager.register(plugin, name=record.name)
            record.backends = self._call("wasi_nn_backends", record.name)
            record.runtimes = self._call("wasi_nn_runtimes", record.name)
            _check(record)
            for backend in record.backends:
                backend.origin = f"{record.distribution} {record.version}".strip()
            self._refuse_taken_names(record)
        except (Exception, SystemExit) as error:
            record.error = _explain(error)
            record.backends, record.runtimes = [], []

    def _call(self, hook: str, plugin_name: str) -> list[Any]:
        caller = getattr(self._manager.hook, hook)
        found: list[Any] = []
        for implementation in caller.get_hookimpls():
            if implementation.plugin_name == plugin_name:
                brought = implementation.function()
                if not isinstance(brought, Iterable):
                    raise UsageError(f"{hook} gave {brought!r}, and must give a list")
                found += brought
        return found

    def _refuse_taken_names(self, record: PluginRecord) -> None:
        for kind, own in (("backends", record.backends), ("runtimes", record.runtimes)):
            for other in self.records:
                if other is record:
                    continue
                taken = {item.name for item in getattr(other, kind)}
                for item in own:
                    if item.name in taken:
                        raise UsageError(
                            f"{kind[:-1]} {item.name!r} is already provided by plugin "
                            f"{other.name!r} of {other.distribution or 'this program'}"
                        )

    @property
    def backends(self) -> list[Backend]:
        """Every backend of every sound plugin."""
        return [backend for record in self.records for backend in record.backends]

    @property
    def runtimes(self) -> list[Runtime]:
        """Every runtime adapter of every sound plugin, the preferred ones first."""
        found = [runtime for record in self.records for runtime in record.runtimes]
        order = {name: rank for rank, name in enumerate(PREFERRED_RUNTIMES)}
        return sorted(found, key=lambda r: (order.get(r.name, len(order)), r.name))

    def backend_for(self, name: str) -> Backend:
        """The backend that serves an encoding, or that is itself called ``name``.

        A backend's own name wins over an encoding, so that a person can choose between two
        backends of one encoding. Raises ``InvalidEncoding``."""
        wanted = canonical(name)
        for backend in self.backends:
            if backend.name == wanted:
                return backend
        for backend in self.backends:
            if wanted in backend.encodings:
                return backend
        raise InvalidEncoding(self._nobody_serves(wanted))

    def _nobody_serves(self, encoding: str) -> str:
        broken = [r for r in self.records if r.error and r.name == EXTRAS.get(encoding, encoding)]
        if broken:
            name, error = broken[0].name, broken[0].error
            return f"no backend serves {encoding}: plugin {name!r} is broken: {error}"
        served = sorted({name for backend in self.backends for name in backend.encodings})
        here = ", ".join(served) or "nothing"
        hint = did_you_mean(encoding, served)
        return f"no backend serves {encoding}{hint}; installed backends serve: {here}"

    def runtime(self, name: str | RuntimeName | None = None) -> Runtime:
        """The runtime called ``name``, or the first usable one for None or ``auto``.
        ``NAME@PYTHON`` runs its guests in processes of another Python, and ``NAME@`` in processes
        of this one. Raises ``UsageError`` for an unknown name, and ``Unavailable`` if the engine is
        not installed."""
        runtimes = self.runtimes
        if name and name != "auto":
            wanted = RuntimeName.parse(name) if isinstance(name, str) else name
            for runtime in runtimes:
                if runtime.name == wanted.plugin:
                    if wanted.python is not None:
                        from wasi_nn.runtime.process.runtime import ProcessRuntime

                        runtime = ProcessRuntime(runtime, wanted.python)
                    found = availability(runtime)
                    if not found.usable:
                        raise Unavailable(f"runtime {wanted} is unavailable: {found.detail}")
                    return runtime
            known = [runtime.name for runtime in runtimes]
            hint = did_you_mean(wanted.plugin, known)
            listed = ", ".join(known) or "none"
            raise UsageError(f"there is no runtime {str(wanted)!r}{hint}; known: {listed}")
        for runtime in runtimes:
            if availability(runtime).usable:
                return runtime
        raise Unavailable('no Wasm engine is installed; pip install "wasi-nn[wasmtime]"')


def _check_hooks(plugin: object) -> None:
    """Refuse a plugin whose hooks nobody would call: misspelt ones, and ones without a mark."""
    hooks = [name for name in vars(hookspecs) if name.startswith("wasi_nn_")]
    marked, unmarked = [], []
    for name in dir(plugin):
        function = getattr(plugin, name, None)
        options = getattr(function, f"{hookspecs.GROUP}_impl", None)
        if isinstance(options, dict):
            marked.append(options.get("specname") or name)
        elif name in hooks and callable(function):
            unmarked.append(name)
    for name in marked:
        if name not in hooks:
            raise UsageError(f"there is no hook {name!r}{did_you_mean(name, hooks)}")
    if unmarked:
        raise UsageError(f"mark the function {unmarked[0]} with @wasi_nn.hookimpl")
    if not marked:
        raise UsageError(
            "it brings no backend and no runtime: it needs a function "
            f"{' or '.join(hooks)}, marked with @wasi_nn.hookimpl"
        )


def _check(record: PluginRecord) -> None:
    """Refuse what would fail later on, far from its cause."""
    for backend in record.backends:
        if not isinstance(backend, Backend):
            raise UsageError(f"{backend!r} is not a wasi_nn.backend.Backend")
        encodings = getattr(backend, "encodings", None)
        if not isinstance(encodings, tuple) or not encodings or not all(map(_is_word, encodings)):
            raise UsageError(
                f"backend {backend!r} names no encodings: each is {_WORD_IS}, in a tuple, "
                f"not {encodings!r}"
            )
        for keys in (backend.config_keys or (), backend.host_only_keys):
            if not all(isinstance(key, str) for key in keys):
                raise UsageError(f"backend {backend!r} has keys of a config that are not texts")
    for runtime in record.runtimes:
        if not isinstance(runtime, Runtime):
            raise UsageError(f"{runtime!r} is not a wasi_nn.runtime.Runtime")
        if not hasattr(type(runtime), "features"):
            raise UsageError(f"runtime {runtime!r} has no features (a RuntimeFeatures)")
    for item in (*record.backends, *record.runtimes):
        name = getattr(item, "name", None)
        if name is None:
            raise UsageError(f"{item!r} has no name")
        if not _is_word(name):
            raise UsageError(f"the name of {item!r} is {name!r}, and must be {_WORD_IS}")
    for kind, items in (("backends", record.backends), ("runtimes", record.runtimes)):
        names = [item.name for item in items]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"the plugin brings two {kind} named {name!r}: rename one")


def _is_word(name: object) -> bool:
    return isinstance(name, str) and _WORD.fullmatch(name) is not None


def availability(item: Backend | Runtime) -> Availability:
    """A plugin's own word of its library; of one that fails at that, the failure."""
    try:
        found = item.availability()
        if not (
            isinstance(found, Availability)
            and isinstance(found.detail, str)
            and isinstance(found.risk, str)
            and all(isinstance(device, str) for device in found.devices)
        ):
            raise UsageError(f"availability gave {found!r}, and must give an Availability")
        if isinstance(item, Backend):
            reason_missing(item)
        elif found.usable:
            features(item)
    except (Exception, SystemExit) as error:
        return Availability(False, f"{_BROKEN}{_explain(error)}")
    return found


def is_broken(found: Availability) -> bool:
    """Whether the plugin failed when it was asked."""
    return found.detail.startswith(_BROKEN)


def reason_missing(backend: Backend) -> str | None:
    """Why a backend's library cannot be used. Raises what its plugin raises, and ``UsageError``
    for an answer that is not one."""
    reason = backend.missing()
    if reason is not None and not isinstance(reason, str):
        raise UsageError(f"missing gave {reason!r}, and must give a text or None")
    return reason


def features(runtime: Runtime) -> RuntimeFeatures:
    """What an engine can do. Raises what its plugin raises, and ``UsageError`` for an answer that
    is not one."""
    found = runtime.features
    if not isinstance(found, RuntimeFeatures):
        raise UsageError(f"features are {found!r}, and must be RuntimeFeatures")
    return found


def _rank(entry: EntryPoint) -> tuple[bool, str]:
    # First-party plugins first, so that nobody else's takes one of their names.
    return (entry.distribution != _OWN_DISTRIBUTION, entry.name)


def _explain(error: BaseException) -> str:
    """One line for the plugin's author, with the place where that tells something."""
    if isinstance(error, UsageError):
        return str(error)
    where = ""
    frame = sys.exc_info()[2]
    while frame:
        file = frame.tb_frame.f_code.co_filename
        if not file.startswith("<frozen"):
            where = f" ({file}:{frame.tb_lineno})"
        frame = frame.tb_next
    return visible(f"{type(error).__name__}: {error}{where}")
