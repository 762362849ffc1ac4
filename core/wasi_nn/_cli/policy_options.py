"""The options of a policy: what a guest may do, and how much of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import click

from wasi_nn import _units
from wasi_nn._cli.shared_options import values
from wasi_nn._policy.values import ISOLATIONS
from wasi_nn._suggestion import did_you_mean
from wasi_nn.errors import UsageError
from wasi_nn.policy import Policy


def _size(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    return None if text is None else _units.size(option.opts[0], text)


def _seconds(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    return None if text is None else _units.duration(option.opts[0], text)


def _names(
    context: click.Context, option: click.Parameter, text: str | None
) -> frozenset[str] | None:
    return None if text is None else frozenset(filter(None, text.split(",")))


_Count = click.IntRange(min=0)
# Each option's parameter is ``rule_`` and the field: other options have some of these names.
#: Each limit's option, by the field of ``Limits``.
_LIMITS = {
    "timeout": click.option(
        "--timeout",
        "rule_timeout",
        callback=_seconds,
        metavar="SECONDS",
        help="Stop the guest, or its compiler, after this time (exit code 124).",
    ),
    "memory": click.option(
        "--max-memory",
        "rule_memory",
        callback=_size,
        metavar="SIZE",
        help="The most linear memory, as in 64M or 2G.",
    ),
    "host_memory": click.option(
        "--max-host-memory",
        "rule_host_memory",
        callback=_size,
        metavar="SIZE",
        help="The most that the host keeps for the guest: models, tensors, KV caches.",
    ),
    "fuel": click.option(
        "--fuel",
        "rule_fuel",
        type=_Count,
        metavar="UNITS",
        help="The most fuel, about one unit for each instruction.",
    ),
    "graphs": click.option(
        "--max-graphs", "rule_graphs", type=_Count, metavar="N", help="The most graphs at one time."
    ),
    "contexts": click.option(
        "--max-contexts",
        "rule_contexts",
        type=_Count,
        metavar="N",
        help="The most execution contexts at one time.",
    ),
    "model_bytes": click.option(
        "--max-model-bytes",
        "rule_model_bytes",
        callback=_size,
        metavar="SIZE",
        help="The most that the guest's own models take.",
    ),
    "tensor_bytes": click.option(
        "--max-tensor-bytes",
        "rule_tensor_bytes",
        callback=_size,
        metavar="SIZE",
        help="The most that the guest's tensors take at one time.",
    ),
    "compute_timeout": click.option(
        "--compute-timeout",
        "rule_compute_timeout",
        callback=_seconds,
        metavar="SECONDS",
        help="End a computation after this time. The guest continues.",
    ),
    "compute_seconds": click.option(
        "--max-compute-seconds",
        "rule_compute_seconds",
        callback=_seconds,
        metavar="SECONDS",
        help="Stop a guest that has computed for this time in all (exit code 124).",
    ),
    "tokens": click.option(
        "--max-tokens",
        "rule_tokens",
        type=_Count,
        metavar="N",
        help="The most tokens that language models generate in all.",
    ),
    "tokens_per_second": click.option(
        "--tokens-per-second",
        "rule_tokens_per_second",
        type=click.FloatRange(min=0, min_open=True),
        metavar="N",
        help="The most tokens that language models generate in a second on average.",
    ),
    "wasm_bytes": click.option(
        "--max-wasm-bytes",
        "rule_wasm_bytes",
        callback=_size,
        metavar="SIZE",
        help="The most that its binary may have.",
    ),
    "files": click.option(
        "--max-files",
        "rule_files",
        type=_Count,
        metavar="N",
        help="The most files that it has open at one time.",
    ),
    "sockets": click.option(
        "--max-sockets",
        "rule_sockets",
        type=_Count,
        metavar="N",
        help="The most sockets that it has at one time.",
    ),
    "workers": click.option(
        "--max-workers",
        "rule_workers",
        type=_Count,
        metavar="N",
        help="The most workers of guests, each of one guest, at one time.",
    ),
}
#: Each right's option, by the field of ``Policy``.
_RIGHTS = {
    "own_models": click.option(
        "--own-models/--no-own-models",
        "rule_own_models",
        default=None,
        help="Whether the guest may load models from its own bytes. By default it may.",
    ),
    "encodings": click.option(
        "--encodings",
        "rule_encodings",
        callback=_names,
        shell_complete=values("encodings"),
        metavar="NAME,…",
        help="The only encodings it may use.",
    ),
    "models": click.option(
        "--models",
        "rule_models",
        callback=_names,
        shell_complete=values("models"),
        metavar="NAME,…",
        help="The only named models it may use.",
    ),
    "targets": click.option(
        "--targets",
        "rule_targets",
        callback=_names,
        shell_complete=values("targets"),
        metavar="NAME,…",
        help="The only targets it may use.",
    ),
    "isolation": click.option(
        "--isolation",
        "rule_isolation",
        multiple=True,
        metavar="[NAME=]HOW",
        help=f"Where models run ({', '.join(ISOLATIONS)}), of an encoding or of a name alone.",
    ),
    "unsandboxed_programs": click.option(
        "--unsandboxed-programs",
        "rule_unsandboxed_programs",
        is_flag=True,
        default=None,
        help="Accept models that are programs (pytorch) from a guest without a sandbox.",
    ),
    "listen": click.option(
        "--listen",
        "rule_listen",
        multiple=True,
        metavar="ADDRESS:PORT",
        help="An address that it may bind, as in 127.0.0.1:8080. Port 0 is any free one.",
    ),
    "connect": click.option(
        "--connect",
        "rule_connect",
        multiple=True,
        metavar="HOST:PORT|CIDR",
        help="What it may reach, as in example.org:443 or 10.0.0.0/8.",
    ),
    "inherit_network": click.option(
        "--inherit-network",
        "rule_inherit_network",
        is_flag=True,
        default=None,
        help="It may bind and reach everything that this machine can.",
    ),
    "priority": click.option(
        "--priority",
        "rule_priority",
        type=int,
        metavar="N",
        help="Which guest's text comes first where several wait for a model; 0 without it.",
    ),
    "pins": click.option(
        "--pin",
        "rule_pins",
        shell_complete=values("model_options"),
        multiple=True,
        metavar="NAME=sha256:HEX",
        help="The digest that a named model must have.",
    ),
}


class PolicyOptions:
    """What was given on a command line."""

    def __init__(self, file: Path | None, given: Mapping[str, Any]) -> None:
        self._file = file
        self._given = given

    @property
    def given(self) -> list[str]:
        """The names of the rules that were given, and of the file."""
        named = [name for name, value in self._given.items() if value not in (None, ())]
        return [*named, *(["policy"] if self._file is not None else [])]

    def policy(self, others: Mapping[str, Any]) -> Policy:
        """The policy: an option of ours comes before one of another host, for which ``others`` has
        the limits and the network, and both come before the file. Raises ``UsageError``."""
        policy = Policy() if self._file is None else Policy.read(self._file)
        limits = {name: self._first(name, others) for name in _LIMITS}
        rights = {name: self._first(name, others) for name in _RIGHTS}
        rights["isolation"] = _isolation(rights["isolation"])
        for name in ("listen", "connect"):
            rights[name] = rights[name] or others.get(name) or None
        pins = {**policy.pins, **dict(_pair("--pin", text) for text in rights.pop("pins"))}
        policy = policy._replace(**{name: v for name, v in rights.items() if v is not None})
        return policy._replace(
            own_models=policy.own_models is not False,
            pins=pins,
            limits=policy.limits._replace(**{n: v for n, v in limits.items() if v is not None}),
        )

    def check_names(self, models: Iterable[str], encodings: Iterable[str]) -> None:
        """Raise ``UsageError`` for a pin of no model, and an isolation of neither model nor
        encoding."""
        models = [*models]
        for option, known in (("pin", models), ("isolation", [*models, *encodings])):
            for text in self._given["pins" if option == "pin" else option]:
                name, equals, _ = text.partition("=")
                if equals and name not in known:
                    hint = did_you_mean(name, known) or "; give it with --graph"
                    raise UsageError(f"--{option} names {name!r}, which is not a model here{hint}")

    def _first(self, name: str, others: Mapping[str, Any]) -> Any:
        ours = self._given[name]
        return others.get(name) if ours is None else ours


def policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, whose function gets them as ``policy``."""

    @wraps(command)
    def wrapped(*, policy_file: Path | None, **options: Any) -> Any:
        given = {name: options.pop(f"rule_{name}") for name in (*_LIMITS, *_RIGHTS)}
        return command(policy=PolicyOptions(policy_file, given), **options)

    for option in reversed([_FILE, *_RIGHTS.values(), *_LIMITS.values()]):
        wrapped = option(wrapped)
    return wrapped


_FILE = click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What the guest may do, in TOML. The options here come before it.",
)


def _isolation(texts: Iterable[str]) -> Any:
    """One isolation, or a mapping; None without an option."""
    texts = [*texts]
    if any("=" in text for text in texts):
        return dict(_pair("--isolation", text) for text in texts)
    return texts[-1] if texts else None


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} takes NAME=VALUE here, not {text!r}")
    return name, value
