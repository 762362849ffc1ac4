"""The identity backend: the outputs of its graphs are their inputs.

Use it in tests, to try a new engine, and to measure what the host itself costs. A model is any file
that begins with ``wasi-nn:identity``. A JSON object may follow on that line:

- ``stream``: the size in bytes of the pieces of ``compute_single`` (without it, no streaming);
- ``untyped_bytes``: tensors are untyped bytes, like those of a language model;
- ``prints``: ``compute`` prints the inputs to the guest's standard output;
- ``inputs``: the number of inputs and outputs, or a list of their names (without it, any number).
"""

from collections.abc import Iterable

from wasi_nn.backend import Backend
from wasi_nn.hookspecs import hookimpl
from wasi_nn_identity.backend import IdentityBackend


@hookimpl
def wasi_nn_backends() -> Iterable[Backend]:
    return [IdentityBackend()]
