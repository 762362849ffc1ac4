"""An archive of skops from anybody, read with bounds, and without a type that skops does not trust.

skops builds objects only of types that it knows. It also reads the formats of its older versions,
with their older checks. Those are refused here."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import skops.io
from skops.io._protocol import PROTOCOL

from wasi_nn import errors

_MAX_MEMBERS = 100_000
_MAX_SCHEMA_BYTES = 64 << 20
#: How many bytes an archive may unpack to for each of its own.
_MAX_RATIO = 100
_MANY = 5


def estimator(data: bytes, trusted: Sequence[str] = ()) -> Any:
    """The object in an archive. Raises ``RuntimeFailure`` for one that is damaged or untrusted."""
    try:
        _check(data)
        found = skops.io.get_untrusted_types(data=data)
        untrusted = [name for name in found if name not in trusted]
        if untrusted:
            raise errors.RuntimeFailure(
                f"the model has types that skops does not trust: {', '.join(untrusted[:_MANY])}; "
                'if you do, name them in the config of a named model: {"trusted": ["TYPE"]}'
            )
        return skops.io.loads(data, trusted=list(trusted))
    except errors.RuntimeFailure:
        raise
    except Exception as error:
        # (skops, zipfile and numpy raise what they like for a damaged file.)
        raise errors.RuntimeFailure(
            f"this is not a model that skops wrote: {type(error).__name__}: {error}"
        ) from error


def _check(data: bytes) -> None:
    """Look at the archive before skops unpacks anything."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise errors.RuntimeFailure(
            "this is not a model that skops wrote: it is not a complete zip archive (a pickle or a "
            "file of joblib is never read; save the model with skops.io.dump)"
        )
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if len(members) > _MAX_MEMBERS or size > _MAX_RATIO * len(data):
            raise errors.RuntimeFailure(
                f"the archive of {len(data)} bytes unpacks to {len(members)} files of {size} bytes "
                f"together: at most {_MAX_MEMBERS} files, and {_MAX_RATIO} times its size, are read"
            )
        schema = archive.getinfo("schema.json")
        if schema.file_size > _MAX_SCHEMA_BYTES:
            raise errors.RuntimeFailure(f"its schema has {schema.file_size} bytes")
        protocol = json.loads(archive.read(schema))["protocol"]
        if protocol != PROTOCOL:
            raise errors.RuntimeFailure(
                f"the file has version {protocol!r} of skops' format, and this skops reads "
                f"{PROTOCOL}: save the model again"
            )
