"""What a guest may do, and how much of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from wasi_nn._policy import values
from wasi_nn._policy.values import ISOLATIONS, Isolation, listed
from wasi_nn.errors import NotAllowed, UsageError
from wasi_nn.limits import Limits
from wasi_nn.types import ExecutionTarget

__all__ = ["Policy"]


class Policy(NamedTuple):
    """What a guest may do (its rights), and how much of it (``limits``).

    - ``own_models``: whether a guest may load models from its own bytes. None stands for False in
      a ``Host``, and for True in ``wasi-nn run``.
    - ``encodings``, ``models`` and ``targets``: the encodings, the named models and the execution
      targets that a guest may use. None is all of them.
    - ``isolation``: where models run: ``"none"`` is the host's own process, ``"shared"`` one worker
      for the model, ``"guest"`` one worker for each guest. It is one value, or a value by encoding
      or name of a model. Without it, a guest's own models run as ``"guest"``, named ggml models as
      ``"shared"``, and other named models as ``"none"``.
    - ``unsandboxed_programs``: whether guests may bring models that are programs (pytorch) to a
      machine without a complete sandbox. None stands for False.
    - ``pins``: the digests of named models: ``sha256:HEX`` of each of a model's files, in order,
      with commas between them. A model of another digest is refused before a library reads it.
    - ``listen``: what a guest may bind: rules ``ADDRESS:PORT``. Port 0 is one that the system
      chooses, and ``*`` is any. None is nothing.
    - ``connect``: what a guest may reach, and which names it may resolve: rules ``HOST:PORT``, or
      networks (``10.0.0.0/8``), or ``*``. None is nothing.
    - ``inherit_network``: True is short for ``*`` in both.
    - ``priority``: where several guests wait for one language model, a higher one computes first.
      None stands for 0.
    - ``limits``: see ``Limits``.

    A run's policy is laid over its host's, rule by rule, and can only tighten it. With ``loosen``
    the rules that the run gives hold, even if they allow more:

        host = Host(policy=Policy(own_models=True, encodings={"onnx", "ggml"}))
        program.run(policy=Policy(encodings={"onnx", "pytorch"}))  # its own models, of onnx alone
        program.run(policy=Policy(own_models=False))  # named models of onnx and ggml
    """

    own_models: bool | None = None
    encodings: Collection[str] | None = None
    models: Collection[str] | None = None
    targets: Collection[str | ExecutionTarget] | None = None
    isolation: Isolation | tuple[Isolation, ...] | None = None
    unsandboxed_programs: bool | None = None
    pins: Mapping[str, str] = {}
    listen: Collection[str] | tuple[frozenset[str], ...] | None = None
    connect: Collection[str] | tuple[frozenset[str], ...] | None = None
    inherit_network: bool | None = None
    priority: int | None = None
    limits: Limits = Limits()
    loosen: bool = False

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a policy from a TOML file (docs/policy.md describes it). Raises ``UsageError`` for a
        file that cannot be read, an unknown key, and a value of a wrong type."""
        from wasi_nn._policy.file import read

        return read(path)

    def checked(self) -> Policy:
        """This policy, with its names in their usual spelling. Raises ``UsageError`` for a value
        that no policy has."""
        from wasi_nn.encodings import canonical

        if not isinstance(self.limits, Limits):
            raise UsageError(f"the policy's limits are {self.limits!r}, and must be Limits(…)")
        self.limits.check()
        pins = values.strings("pins", self.pins)
        return self._replace(
            own_models=values.boolean("own_models", self.own_models),
            encodings=values.names("encodings", self.encodings, canonical),
            models=values.names("models", self.models, values.name),
            targets=values.names("targets", self.targets, values.target),
            isolation=tuple(map(values.isolations, self._layers())) or None,
            unsandboxed_programs=values.boolean("unsandboxed_programs", self.unsandboxed_programs),
            pins={name: values.digest(digest) for name, digest in pins.items()},
            priority=values.priority(self.priority),
            **self._network(),
        )

    def over(self, host: Policy) -> Policy:
        """This policy laid over a host's, which is ``checked``. Raises ``UsageError`` as
        ``checked`` does, and for a model that the host pins to another digest."""
        own, loosen = self.checked(), self.loosen
        for name in own.pins.keys() & host.pins.keys():
            if own.pins[name] != host.pins[name] and not loosen:
                raise UsageError(f"the host pins the model {name!r} to another digest")

        def laid(rule: str) -> Any:
            mine, outer = getattr(own, rule), getattr(host, rule)
            if mine is None or outer is None or loosen:
                return outer if mine is None else mine
            return mine & outer if isinstance(mine, frozenset) else min(mine, outer)

        def stacked(rule: str) -> Any:
            mine, outer = getattr(own, rule), getattr(host, rule)
            if mine is None or outer is None or loosen:
                return outer if mine is None else mine
            return (*outer, *mine)

        isolation = (*(() if loosen and own.isolation else host._layers()), *own._layers())
        limits = own.limits._replace(loosen=True) if loosen else own.limits
        return Policy(
            own_models=laid("own_models"),
            encodings=laid("encodings"),
            models=laid("models"),
            targets=laid("targets"),
            isolation=isolation or None,
            unsandboxed_programs=laid("unsandboxed_programs"),
            pins={**host.pins, **own.pins},
            listen=stacked("listen"),
            connect=stacked("connect"),
            priority=laid("priority"),
            limits=limits.over(host.limits),
        )

    def isolation_of(
        self,
        encoding: str,
        always_in_worker: bool,
        model: str | None = None,
        chosen: str | None = None,
    ) -> str:
        """Where a model runs: ``"none"``, ``"shared"`` or ``"guest"``.

        ``always_in_worker`` is what its backend says. ``model`` is the name of a named
        model, and None for a guest's own. ``chosen`` is what the operator chose for that
        model alone. A guest's own model has one user, so for it ``"shared"`` is
        ``"guest"``. Of a host's and a run's choices, the strongest holds."""

        def choice(layer: Isolation) -> str | None:
            if isinstance(layer, str):
                return layer
            return layer.get(model or encoding) or layer.get(encoding)

        default = "guest" if model is None else "shared" if always_in_worker else "none"
        if self.isolation is None and chosen is None:
            return default
        outer, *inner = [choice(layer) for layer in self._layers()] or [None]
        found = [chosen or outer or default, *(each for each in inner if each)]
        strongest = max(found, key=ISOLATIONS.index)
        return "guest" if model is None and strongest == "shared" else strongest

    def check_own_model(self) -> None:
        """Raise ``NotAllowed`` if a guest may not load models from its own bytes."""
        if not self.own_models:
            raise NotAllowed(
                "own-models",
                "a guest may use named models alone (from Python, Policy(own_models=True))",
            )

    def check_model(self, name: str) -> None:
        """Raise ``NotAllowed`` if a guest may not use the named model."""
        if self.models is not None and name not in self.models:
            raise NotAllowed("models", f"a guest may use {listed(self.models)}, not {name!r}")

    def check_graph(self, encoding: str, target: ExecutionTarget) -> None:
        """Raise ``NotAllowed`` if a guest may not use the encoding, or the execution target."""
        if self.encodings is not None and encoding not in self.encodings:
            allowed = listed(self.encodings)
            raise NotAllowed("encodings", f"a guest may use {allowed}, not {encoding}")
        if self.targets is not None and target not in self.targets:
            raise NotAllowed("targets", f"a guest may use {listed(self.targets)}, not {target}")

    def _network(self) -> dict[str, Any]:
        """The rules for the network, checked: each must allow what a guest does."""
        everything = values.boolean("inherit_network", self.inherit_network)
        if self.listen is None and self.connect is None and everything is None:
            return {}
        # (Reading addresses takes a module that most hosts do not need.)
        from wasi_nn._policy import network

        return {
            "listen": network.layers("listen", self.listen, everything, network.listening),
            "connect": network.layers("connect", self.connect, everything, network.connecting),
            "inherit_network": None,
        }

    def _layers(self) -> tuple[Isolation, ...]:
        """The isolation of a host, and of the policies that were laid over it."""
        if self.isolation is None:
            return ()
        return self.isolation if isinstance(self.isolation, tuple) else (self.isolation,)
