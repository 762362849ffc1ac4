"""A file of a web server: resumed where it was cut off, retried, and never taken half.

The standard library speaks HTTP here. It knows the system's proxies and certificates, and what is
difficult about a download (ranges, validators, limits, where a redirect may lead) is ours with any
other client too.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

from wasi_nn._models.sources.source import About, Progress, Room, is_this_machine
from wasi_nn.errors import UsageError

#: The seconds before each further try. It gives up once so many tries have brought nothing.
WAITS = (0.5, 1.0, 2.0, 4.0)
#: The seconds that a server may be silent.
PATIENCE = 30.0
# A server that breaks off after every few bytes is left in the end.
_MAX_TRIES = 100
_MAX_WAIT = 30.0
_CHUNK = 1 << 20
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
_ADVICE = {
    401: "it needs a login: download the file yourself, and give its path",
    403: "it needs a login: download the file yourself, and give its path",
    404: "check the address",
    410: "check the address",
}
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _Broken(Exception):
    """An answer that ended too early, or did not come. ``wait`` is what the server asks for, in
    seconds. With ``anew``, the rest does not fit what is there."""

    def __init__(self, reason: str, wait: float = 0.0, anew: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.anew = anew


class WebFile:
    """A file of ``https://``, or of ``http://`` on this machine or with a digest."""

    def __init__(self, url: str, has_digest: bool) -> None:
        self._url = url
        self._has_digest = has_digest
        # What the server called the file when it was asked.
        self._tag: str | None = None
        self._is_local = is_this_machine(urlsplit(url).hostname)
        self._check(url)
        # No proxy reaches this machine.
        proxies = (
            urllib.request.ProxyHandler({}) if self._is_local else urllib.request.ProxyHandler()
        )
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            proxies,
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(self),
        ):
            self._opener.add_handler(handler)

    def about(self) -> About:
        """Ask for the file, and look at the answer's size alone: not every server answers HEAD."""
        for wait in (*WAITS, None):
            try:
                with self._open({}) as response:
                    self._tag = _strong(response)
                    return About(_length(response))
            except _Broken as broken:
                if wait is None:
                    raise UsageError(f"{self._url}: {broken}") from broken
                time.sleep(_jittered(max(wait, broken.wait)))
        raise AssertionError

    def download(self, to: Path, room: Room, progress: Progress) -> None:
        """See ``Remote``."""
        # What the server calls this version of the file. Only with it a rest fits what is there.
        note = to.with_name(f"{to.name}.version")
        in_vain = 0
        for _ in range(_MAX_TRIES):
            have = _size(to)
            try:
                self._get(to, note, room, progress)
                return
            except _Broken as broken:
                reason = str(broken)
                if broken.anew:
                    note.unlink(missing_ok=True)
                in_vain = 0 if _size(to) > have else in_vain + 1
                if in_vain > len(WAITS):
                    break
                if in_vain:
                    time.sleep(_jittered(max(WAITS[in_vain - 1], broken.wait)))
        kept = _size(to)
        rest = f"; the same command goes on after {kept} bytes" if kept and note.exists() else ""
        raise UsageError(f"{self._url}: {reason}{rest}")

    def _get(self, to: Path, note: Path, room: Room, progress: Progress) -> None:
        have, headers = _size(to), {}
        version, size = _read(note)
        if have and version:
            if have == size and version == self._tag:
                return
            headers = {"Range": f"bytes={have}-", "If-Range": version}
        with self._open(headers) as response:
            whole, start = _length(response), 0
            if response.status == 206:
                found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
                if found is None or int(found[1]) != have:
                    raise _Broken("the server gave another part than was asked for", anew=True)
                start = have
                whole = None if whole is None else start + whole
            tag = _strong(response)
            if tag is not None:
                note.write_text(json.dumps([tag, whole]))
            else:
                note.unlink(missing_ok=True)
            _copy(response, to, start, whole, room, progress)

    def _open(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        from wasi_nn import __version__

        asked = {"User-Agent": f"wasi-nn/{__version__}", "Accept-Encoding": "identity", **headers}
        try:
            response = self._opener.open(
                urllib.request.Request(self._url, headers=asked), None, PATIENCE
            )
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from error
        except urllib.error.URLError as error:
            raise self._unreachable(error.reason) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(f"the connection broke: {_told(error)}") from error
        assert isinstance(response, http.client.HTTPResponse)
        packed = response.headers.get("Content-Encoding", "identity")
        if packed != "identity":
            response.close()
            raise UsageError(
                f"{self._url}: the server packs the file ({packed}): download it yourself"
            )
        return response

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        said = f"the server answers {error.code} ({error.reason})"
        if error.code == 416:
            return _Broken(said, anew=True)
        if error.code in _TEMPORARY:
            asked = error.headers.get("Retry-After", "")
            return _Broken(said, min(float(asked), _MAX_WAIT) if asked.isdigit() else 0.0)
        if 300 <= error.code < 400:
            to = urljoin(self._url, error.headers.get("Location", "") if error.headers else "")
            return UsageError(f"{self._url} leads to {to!r:.200}, where no model is fetched from")
        advice = _ADVICE.get(error.code)
        return UsageError(f"{self._url}: {said}" + (f"; {advice}" if advice else ""))

    def _unreachable(self, reason: object) -> Exception:
        if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME:
            host = urlsplit(self._url).hostname
            return UsageError(f"{self._url}: there is no host {host!r}; check the address")
        if isinstance(reason, ssl.SSLCertVerificationError):
            return UsageError(f"{self._url}: the server's certificate is not good: {reason}")
        return _Broken(f"the server cannot be reached: {_told(reason)}")

    def _check(self, url: str) -> None:
        """Raise ``UsageError`` for an address where an attacker could give another model."""
        parts = urlsplit(url)
        if parts.scheme == "https" or (parts.scheme == "http" and self._has_digest):
            return
        if parts.scheme == "http" and self._is_local and is_this_machine(parts.hostname):
            return
        leads = "" if url == self._url else f"{self._url} leads to "
        if parts.scheme == "http":
            raise UsageError(
                f"{leads}{url}: whoever is between could give another model; use https, or give "
                "the file's digest (sha256:…)"
            )
        raise UsageError(f"{leads}{url!r:.200}, where no model is fetched from")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, file: WebFile) -> None:
        self._file = file

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        self._file._check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _copy(
    response: http.client.HTTPResponse,
    to: Path,
    start: int,
    whole: int | None,
    room: Room,
    progress: Progress,
) -> None:
    room(start if whole is None else whole)
    have = asked = start
    with open(to, "r+b" if start else "wb") as file:
        file.truncate(start)
        file.seek(start)
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                rest = f"{have} of {whole} bytes" if whole else f"{have} bytes"
                raise _Broken(f"the connection broke after {rest}: {_told(error)}") from error
            if not chunk:
                break
            have += len(chunk)
            if whole is None and have - asked >= _CHUNK:
                room(have)
                asked = have
            file.write(chunk)
            progress(have, whole)
    if whole is None:
        room(have)
    elif have != whole:
        raise _Broken(f"the connection ended after {have} of {whole} bytes")


def _strong(response: http.client.HTTPResponse) -> str | None:
    """The validator of exactly these bytes."""
    tag: str = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else None


def _length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(note: Path) -> tuple[str | None, int | None]:
    """What the server called the version that is there in part, and the size of the whole."""
    try:
        version, size = json.loads(note.read_text())
    except (OSError, ValueError, TypeError):
        return None, None
    return version, size


def _jittered(seconds: float) -> float:
    # Clients that were cut off together do not come back together.
    return seconds * random.uniform(0.75, 1.25)


def _told(error: object) -> str:
    return str(error) or type(error).__name__
