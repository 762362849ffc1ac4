"""A file of an S3 bucket, through fsspec: credentials, regions and endpoints are s3fs's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wasi_nn._models.sources.source import About, Progress, Room
from wasi_nn.errors import Unavailable, UsageError

_CHUNK = 4 << 20


class BucketFile:
    """``s3://BUCKET/KEY``."""

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            import fsspec

            self._files: Any = fsspec.filesystem("s3")
        except ImportError as error:
            raise Unavailable(
                f'{url} needs the packages fsspec and s3fs: pip install "wasi-nn[s3]"'
            ) from error

    def about(self) -> About:
        """See ``Remote``."""
        return About(self._info()[1])

    def download(self, to: Path, room: Room, progress: Progress) -> None:
        """See ``Remote``."""
        tag, size = self._info()
        room(size)
        # What is there is the beginning of this file only if the bucket's file is the same.
        note = to.with_name(f"{to.name}.version")
        if not (note.exists() and note.read_text() == json.dumps(tag)):
            to.unlink(missing_ok=True)
        note.write_text(json.dumps(tag))
        with open(to, "ab") as file:
            have = file.tell()
            while have < size:
                end = min(have + _CHUNK, size)
                chunk = self._asked("cat_file", self._url, start=have, end=end)
                if len(chunk) != end - have:
                    raise UsageError(f"{self._url}: the bucket gave less than it has; try again")
                file.write(chunk)
                have = end
                progress(have, size)
        if self._info() != (tag, size):
            note.unlink()
            raise UsageError(
                f"{self._url}: the file was replaced while it was downloaded; try again"
            )

    def _info(self) -> tuple[str, int]:
        self._files.invalidate_cache()
        found = self._asked("info", self._url)
        if found.get("type") != "file":
            raise UsageError(f"{self._url} is not a file")
        return str(found.get("ETag", "")), int(found["size"])

    def _asked(self, method: str, *arguments: object, **options: object) -> Any:
        try:
            return getattr(self._files, method)(*arguments, **options)
        except Exception as error:
            # (botocore's errors have no common kind that fsspec names.)
            said = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(f"{self._url}: {said:.300}") from error
