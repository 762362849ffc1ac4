"""The identity backend: its graph gives back what it is given.

For tests, for trying a new engine, and for measuring what the host itself costs. A model is any
file that begins with ``wasi-nn:identity``; what follows on that line is a JSON object:

- ``stream``: pieces of that many bytes for ``compute_single`` (no streaming without it);
- ``untyped_bytes``: tensors are strings of bytes, as a language model's are;
- ``inputs``: how many inputs, and outputs, there are (any number without it).
"""

from collections.abc import Iterable

from wasi_nn.backend import Backend
from wasi_nn.hookspecs import hookimpl
from wasi_nn_identity.backend import IdentityBackend


@hookimpl
def wasi_nn_backends() -> Iterable[Backend]:
    return [IdentityBackend()]
