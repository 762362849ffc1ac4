"""A file of the Hugging Face Hub, through its own library: logins, gated models and its transfers
are that library's."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from wasi_nn._models.sources.source import About, Progress, Room
from wasi_nn.errors import Unavailable, UsageError

_FORM = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")


class HubFile:
    """``hf://OWNER/REPOSITORY[@REVISION]/FILE``."""

    def __init__(self, url: str) -> None:
        found = _FORM.fullmatch(url)
        if found is None:
            raise UsageError(
                f"{url}: write hf://OWNER/REPOSITORY/FILE, or hf://OWNER/REPOSITORY@REVISION/FILE"
            )
        try:
            import huggingface_hub
        except ImportError as error:
            raise Unavailable(
                f'{url} needs the package huggingface_hub: pip install "wasi-nn[hf]"'
            ) from error
        self._url, self._hub = url, huggingface_hub
        self._repository, self._file = found["repo"], found["file"]
        self._revision: str | None = found["revision"]

    def about(self) -> About:
        """See ``Remote``. What is downloaded afterwards is of the same commit."""
        about: Any = self._asked(
            lambda: self._hub.HfApi().model_info(
                self._repository, revision=self._revision, files_metadata=True
            )
        )
        self._revision = about.sha or self._revision
        card = about.card_data
        licence = card and (card.get("license_name") or card.get("license"))
        files = {file.rfilename: file.size for file in about.siblings or ()}
        if self._file not in files:
            raise UsageError(f"{self._url}: the repository has no file {self._file!r}")
        return About(files[self._file], str(licence) if licence else None)

    def download(self, to: Path, room: Room, progress: Progress) -> None:
        """See ``Remote``."""
        size = self.about().size
        note = to.with_name(f"{to.name}.version")
        if to.exists() and note.exists() and note.read_text() == self._revision:
            return
        room(size or 0)
        bars = self._hub.utils
        # Its bars are for a terminal alone.
        if not (sys.stderr and sys.stderr.isatty()):
            bars.disable_progress_bars()
        folder = to.with_name(f"{to.name}.hub")
        found = self._asked(
            lambda: self._hub.hf_hub_download(
                self._repository, self._file, revision=self._revision, local_dir=folder
            )
        )
        os.replace(found, to)
        note.write_text(self._revision or "")
        shutil.rmtree(folder, ignore_errors=True)
        progress(to.stat().st_size, size)

    def _asked(self, what: Any) -> Any:
        try:
            return what()
        except (OSError, ValueError, RuntimeError) as error:
            # (Its errors are kinds of these. Their later lines are advice on its own functions.)
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = " ".join(lines[:2]) or type(error).__name__
            raise UsageError(f"{self._url}: {said}") from error
