"""A guest's own model is loaded, and computes a token, in a process of its own first.

llama.cpp answers some damaged models with abort(), which nothing in a process can prevent. What
would take the host down takes that process down instead. The price is loading the model twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from wasi_nn.errors import RuntimeFailure, WasiNnError

_SECONDS = 120
_REFUSED = 3


def run(path: str, descriptor: int) -> None:
    """Raise ``RuntimeFailure`` for a model that cannot be loaded or ends the process that does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "wasi_nn_ggml.trial", path],
            pass_fds=(descriptor,),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(
            f"the model was not loaded and run within {_SECONDS} seconds"
        ) from None
    if ended.returncode == 0:
        return
    said = ended.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no reason given"]
    if ended.returncode == _REFUSED:
        raise RuntimeFailure(said[0])
    try:
        how = signal.Signals(-ended.returncode).name
    except ValueError:
        how = f"exit code {ended.returncode}"
    raise RuntimeFailure(f"the model makes llama.cpp end its process ({how}): {said[0]}")


def _try(path: str) -> None:
    from wasi_nn_ggml.sequence import Sequence
    from wasi_nn_ggml.settings import ContextSettings, ModelSettings
    from wasi_nn_ggml.weights import Weights

    weights = Weights(path, ModelSettings())
    settings = ContextSettings(n_ctx=min(256, weights.n_ctx_train or 256))
    sequence = Sequence(weights, settings, lambda size: None)
    sequence.evaluate(weights.tokenize(b"a b")[:8] or [0])
    sequence.close()


if __name__ == "__main__":
    try:
        _try(sys.argv[1])
    except WasiNnError as refused:
        print(refused, file=sys.stderr)
        sys.exit(_REFUSED)
