"""Find and load plugins one by one, so that a broken one does not stop the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Set
from inspect import getattr_static
from types import ModuleType
from typing import Any

import pluggy

from wasi_nn import _plugin_choice as plugin_choice
from wasi_nn import hookspecs
from wasi_nn._distributions import EntryPoint, entry_points
from wasi_nn._plugin_blame import explain, heard
from wasi_nn._suggestion import did_you_mean
from wasi_nn.backend import Backend
from wasi_nn.encodings import EXTRAS, canonical
from wasi_nn.errors import InvalidEncoding, Unavailable, UsageError
from wasi_nn.runtime import Runtime, RuntimeFeatures
from wasi_nn.runtime.name import RuntimeName
from wasi_nn.types import Availability

__all__ = [
    "PREFERRED_RUNTIMES",
    "PluginRecord",
    "Plugins",
    "availability",
    "check_engine",
    "is_broken",
]

#: The runtimes in the order in which ``auto`` tries them. Others follow, sorted by name.
PREFERRED_RUNTIMES = ("wasmtime", "wamr", "wasmedge", "v8", "wasmer")

_OWN_DISTRIBUTION = "wasi-nn"
# Names and encodings are written on command lines between colons and equals signs.
_WORD = re.compile(r"[A-Za-z0-9_.+-]+")
_BROKEN = "the plugin is broken: "
_HOOKS = ("wasi_nn_backends", "wasi_nn_runtimes")


class PluginRecord:
    """One entry point: its backends and runtimes, or the error that broke it."""

    def __init__(self, name: str, distribution: str, version: str) -> None:
        self.name = name
        self.distribution = distribution
        self.version = version
        self.backends: list[Backend] = []
        self.runtimes: list[Runtime] = []
        self.error: str | None = None


class Plugins:
    """The plugins of one host. Two hosts share the plugins' code, and no objects."""

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        #: The names of installed plugins that ``WASI_NN_PLUGINS`` leaves out.
        self.left_out: list[str] = []

    @classmethod
    def installed(cls) -> Plugins:
        """All plugins that the installed distributions name, including our own.

        The environment variable ``WASI_NN_PLUGINS`` can choose among them: ``onnx,wasmtime`` are
        the only ones, and ``no:NAME`` leaves one out. What is left out is not imported. Raises
        ``UsageError`` for a name that is not installed."""
        plugins = cls()
        found = sorted(entry_points(hookspecs.GROUP), key=_rank)
        names = plugin_choice.chosen({entry.name for entry in found})
        # An editable install can list its distribution twice on sys.path: the first one counts.
        seen: set[tuple[str, str]] = set()
        for entry in found:
            if (entry.name, entry.value) not in seen:
                seen.add((entry.name, entry.value))
                if entry.name in names:
                    plugins._load_entry(entry)
                else:
                    plugins.left_out.append(entry.name)
        return plugins

    def register(self, plugin: Any, name: str, distribution: str = "", version: str = "") -> None:
        """Add a plugin, an object or a module, for tests and an application's private backend."""
        record = PluginRecord(name, distribution, version)
        self.records.append(record)
        self._register(record, plugin)

    def _load_entry(self, entry: EntryPoint) -> None:
        record = PluginRecord(entry.name, entry.distribution, entry.version)
        self.records.append(record)
        with heard(f"plugin {entry.name} of {entry.distribution} {entry.version}"):
            try:
                plugin = entry.load()
            except (Exception, SystemExit) as error:
                record.error = explain(error, entry.value.partition(":")[0].strip())
                return
            self._register(record, plugin, getattr(plugin, "__name__", ""))

    def _register(self, record: PluginRecord, plugin: Any, module: str = "") -> None:
        try:
            _check_api(plugin)
            record.backends, record.runtimes = _call_hooks(plugin)
            _check(record)
            for backend in record.backends:
                backend.origin = f"{record.distribution} {record.version}".strip()
                backend.plugin = module
            self._refuse_taken_names(record)
        except (Exception, SystemExit) as error:
            record.error = explain(error, module)
            record.backends, record.runtimes = [], []

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
        """Every backend of every plugin that is not broken."""
        return [backend for record in self.records for backend in record.backends]

    @property
    def runtimes(self) -> list[Runtime]:
        """Every runtime of every plugin that is not broken, in the order of preference."""
        found = [runtime for record in self.records for runtime in record.runtimes]
        order = {name: rank for rank, name in enumerate(PREFERRED_RUNTIMES)}
        return sorted(found, key=lambda r: (order.get(r.name, len(order)), r.name))

    def backend_for(self, name: str) -> Backend:
        """The backend with this name, or else one that serves the encoding ``name``.

        The name comes first, so that a user can choose between two backends of one encoding. Raises
        ``InvalidEncoding``."""
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
        return (
            f"no backend serves {encoding}{hint}; installed backends serve: {here}{self._absent()}"
        )

    def _absent(self) -> str:
        out = ", ".join(self.left_out)
        return f" ({plugin_choice.LEFT_OUT}: {out})" if out else ""

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
                        if runtime.own_encodings:
                            raise UsageError(
                                f"{runtime.name} computes models itself, and has processes of its "
                                f"own: name the runtime {runtime.name}, without a Python"
                            )
                        from wasi_nn.runtime.process.runtime import ProcessRuntime

                        runtime = ProcessRuntime(runtime, wanted.python)
                    found = availability(runtime)
                    if not found.usable:
                        raise Unavailable(f"runtime {wanted} is unavailable: {found.detail}")
                    return runtime
            known = [runtime.name for runtime in runtimes]
            hint = did_you_mean(wanted.plugin, known)
            listed = ", ".join(known) or "none"
            raise UsageError(
                f"there is no runtime {str(wanted)!r}{hint}; known: {listed}{self._absent()}"
            )
        for runtime in runtimes:
            if not runtime.own_encodings and availability(runtime).usable:
                return runtime
        raise Unavailable(
            f'no Wasm engine is installed; pip install "wasi-nn[wasmtime]"{self._absent()}'
        )


def _check_api(plugin: object) -> None:
    """Raise ``UsageError`` for a plugin that was written for another version of the contract."""
    asked = getattr(plugin, "WASI_NN_API", hookspecs.API_VERSION)
    if asked != hookspecs.API_VERSION:
        raise UsageError(
            f"it is for version {asked!r} of the API for plugins, and this wasi-nn has version "
            f"{hookspecs.API_VERSION}: install a release of the plugin, or of wasi-nn, that fits"
        )


class _Manager(pluggy.PluginManager):
    """Looks for hooks where they can be. (pluggy looks at every attribute, which takes most of the
    time that a plugin takes.)"""

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:
        return super().parse_hookspec_opts(module_or_class, name) if name in _HOOKS else None

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        if isinstance(plugin, ModuleType):
            value = vars(plugin).get(name)
            if name.startswith("__") or isinstance(value, (type, ModuleType)):
                return None
        return super().parse_hookimpl_opts(plugin, name)


def _call_hooks(plugin: object) -> tuple[list[Any], list[Any]]:
    """What a plugin's two hooks give. Raises ``UsageError`` for a plugin that has neither, and for
    hooks that pluggy would not call: a misspelt one, and one without a mark."""
    # A manager for each plugin: in a shared one, plugins must be hashable and differ in __name__.
    manager = _Manager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    callers = {caller.name: caller for caller in manager.get_hookcallers(plugin) or ()}
    _check_hooks(plugin, callers)
    backends, runtimes = (_call(callers[hook]) if hook in callers else [] for hook in _HOOKS)
    return backends, runtimes


def _check_hooks(plugin: object, callers: Mapping[str, pluggy.HookCaller]) -> None:
    functions = [
        name
        for name in dir(plugin)
        if name.startswith("wasi_nn_") and name not in callers and callable(getattr(plugin, name))
    ]
    for hook in _HOOKS:
        if hook in functions:
            raise UsageError(f"mark the function {hook} with @wasi_nn.hookimpl")
    for hook, caller in callers.items():
        if not caller.has_spec():
            raise UsageError(f"there is no hook {hook!r}{did_you_mean(hook, _HOOKS)}")
    if not callers:
        near = functions[:1]
        raise UsageError(
            "it brings no backend and no runtime: it needs a function "
            f"{' or '.join(_HOOKS)}, marked with @wasi_nn.hookimpl"
            + "".join(f"; it has {name!r}{did_you_mean(name, _HOOKS)}" for name in near)
        )


def _call(hook: pluggy.HookCaller) -> list[Any]:
    # (pluggy leaves out None.)
    found: list[Any] = []
    for brought in hook() or [None]:
        if not isinstance(brought, Iterable):
            raise UsageError(f"{hook.name} gave {brought!r}, and must give a list")
        found += brought
    return found


def _check(record: PluginRecord) -> None:
    """Refuse what would fail later, far from its cause: all that core relies on."""
    for kind, items, clauses in (
        (Backend, record.backends, _BACKEND_CLAUSES),
        (Runtime, record.runtimes, _RUNTIME_CLAUSES),
    ):
        for item in items:
            if not isinstance(item, kind):
                raise UsageError(f"{item!r} is not a {kind.__module__}.{kind.__name__}")
            _check_clauses(item, clauses)
        names = [item.name for item in items]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(
                    f"the plugin brings two {kind.__name__.lower()}s named {name!r}: rename one"
                )
    for runtime in record.runtimes:
        declared = getattr_static(runtime, "features")
        if declared is vars(Runtime)["features"]:
            raise UsageError(f"{runtime!r} has no features: they must be RuntimeFeatures")
        if not hasattr(declared, "__get__"):
            check_engine(runtime)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _are_words(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(map(_is_word, value))


def _are_keys(value: object) -> bool:
    return isinstance(value, Set) and all(isinstance(key, str) for key in value)


_Clause = tuple[str, Callable[[object], bool], str]
_WORD_RULE = "a word of letters, digits and - _ . +"
_COMMON_CLAUSES: tuple[_Clause, ...] = (
    ("name", _is_word, _WORD_RULE),
    ("survives_fork", _is_bool, "True or False"),
)
_BACKEND_CLAUSES: tuple[_Clause, ...] = (
    *_COMMON_CLAUSES,
    ("encodings", _are_words, f"a tuple of encodings; each is {_WORD_RULE}"),
    ("config_keys", lambda keys: keys is None or _are_keys(keys), "a set of texts, or None"),
    ("host_only_keys", _are_keys, "a set of texts"),
    ("always_in_worker", _is_bool, "True or False"),
    ("models_are_programs", _is_bool, "True or False"),
    ("reads_beside", _is_bool, "True or False"),
)
_RUNTIME_CLAUSES: tuple[_Clause, ...] = (
    *_COMMON_CLAUSES,
    ("own_encodings", _are_keys, "a set of texts"),
)
_ENGINE_CLAUSES: tuple[_Clause, ...] = (
    ("features", lambda value: isinstance(value, RuntimeFeatures), "RuntimeFeatures"),
    ("wasi_modules", _are_keys, "a set of texts"),
)


def _check_clauses(item: object, clauses: Iterable[_Clause]) -> None:
    for attribute, holds, rule in clauses:
        try:
            value = getattr(item, attribute)
        except AttributeError as error:
            raise UsageError(f"{item!r}: {error}, {rule}") from error
        if not holds(value):
            raise UsageError(f"the {attribute} of {item!r} is {value!r}, and must be {rule}")


def check_engine(runtime: Runtime) -> None:
    """Raise ``UsageError`` unless what a runtime says of its engine is what the contract asks for,
    and whatever its plugin raises. May load the engine's library."""
    _check_clauses(runtime, _ENGINE_CLAUSES)


def availability(item: Backend | Runtime, deep: bool = False) -> Availability:
    """What a plugin says of its library, or the error of a plugin that fails to say it.

    Checks what core relies on next. ``deep`` is for backends: see ``Backend.availability``."""
    try:
        found = item.availability(deep) if isinstance(item, Backend) else item.availability()
        if not (
            isinstance(found, Availability)
            and isinstance(found.detail, str)
            and all(isinstance(device, str) for device in found.devices)
        ):
            raise UsageError(f"availability gave {found!r}, and must give an Availability")
        if isinstance(item, Runtime) and found.usable:
            check_engine(item)
    except Unavailable as reason:
        return Availability(False, str(reason))
    except (Exception, SystemExit) as error:
        return Availability(False, f"{_BROKEN}{explain(error, type(item).__module__)}")
    return found


def is_broken(found: Availability) -> bool:
    """Whether the plugin failed when it was asked."""
    return found.detail.startswith(_BROKEN)


def _rank(entry: EntryPoint) -> tuple[bool, str]:
    # Our own plugins come first, so that no other plugin can take one of their names.
    return (entry.distribution != _OWN_DISTRIBUTION, entry.name)
