"""Directories: files work in them, and no path leads out of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from wasi_nn import Host
from wasi_nn.runtime import Preopen
from wasi_nn_conformance.engine_tests.common import Engine, Wat, may_refuse, skip_if_refused
from wasi_nn_conformance.engine_tests.preopens import (
    CREATE,
    DIRECTORY,
    EXCLUSIVE,
    READ,
    TRUNCATE,
    WRITE,
    WasiCalls,
)

_SET_BOTH_TIMES = 1 | 4
_YEAR_2001 = 10**18
# The places where these lead are outside. The guest's directory has the symbolic links of `_links`.
_WAYS = {
    "a path upwards": "..",
    "a path that goes down before it goes up": "deep/er/../../..",
    "an absolute path": "{top}",
    "a link to a directory": "relative",
    "a link to an absolute path": "absolute",
    "a link to a link": "chain",
    "a link in a directory below": "deep/up",
    "the directory above a linked one": "above/outside/..",
    "a link to the root": "root/{top}",
}


def _links(top: Path) -> dict[str, str]:
    return {
        "relative": "..",
        "absolute": str(top),
        "chain": "relative",
        "deep/up": "../..",
        "above": "deep/../..",
        "root": "/",
    }


class _Place(NamedTuple):
    """``inside`` is the guest's; ``outside`` is not."""

    top: Path
    inside: Path
    outside: Path

    def state(self) -> dict[str, object]:
        """Whatever a guest could change outside."""
        found: dict[str, object] = {}
        for path in [self.outside, *sorted(self.outside.rglob("*"))]:
            status = path.lstat()
            text = path.read_text() if path.is_file() else ""
            found[str(path)] = (status.st_mtime_ns, status.st_mode, status.st_nlink, text)
        return found


class Directories(Engine):
    @pytest.fixture
    def place(self, tmp_path: Path) -> _Place:
        place = _Place(tmp_path, tmp_path / "inside", tmp_path / "outside")
        (place.inside / "deep" / "er").mkdir(parents=True)
        (place.inside / "mine").write_text("of the guest")
        (place.outside / "empty").mkdir(parents=True)
        (place.outside / "secret").write_text("of the host")
        (place.outside / "link").symlink_to("secret")
        return place

    @pytest.fixture
    def guest(self, host: Host, wat: Wat, place: _Place) -> Iterator[WasiCalls]:
        self.needs(host, "wasi")
        with skip_if_refused("cannot give"):
            guest = WasiCalls(host, wat, Preopen(place.inside, "/data"))
        yield guest
        guest.close()

    @pytest.mark.parametrize("way", _WAYS)
    def test_no_path_leads_out_of_a_directory(
        self, guest: WasiCalls, place: _Place, way: str
    ) -> None:
        for name, target in _links(place.top).items():
            (place.inside / name).symlink_to(target)
        before = place.state()
        out = _WAYS[way].format(top=place.top) + "/outside"
        wrong = [what for what, errno in _attempts(guest, out) if errno == 0]
        assert (wrong, place.state()) == ([], before)
        assert not (place.inside / "got").exists()

    @pytest.mark.parametrize("target", ["../outside/{}", "{top}/outside/{}", "deep/../hop/{}"])
    def test_no_link_to_a_file_leads_out(
        self, guest: WasiCalls, place: _Place, target: str
    ) -> None:
        (place.inside / "hop").symlink_to("../outside")
        for name in ("secret", "new"):
            (place.inside / name).symlink_to(target.format(name, top=place.top))
        before = place.state()
        for name in ("secret", "new"):
            for flags in (0, CREATE, TRUNCATE, CREATE | EXCLUSIVE, DIRECTORY):
                for rights in (READ, WRITE, READ | WRITE):
                    for follow in (True, False):
                        errno, _ = guest.open(name, flags, rights, follow=follow)
                        assert errno != 0, (name, flags, rights, follow)
            assert guest.call("path_filestat_get", guest.top, 1, name, 0) != 0
            times = (_YEAR_2001, _YEAR_2001, _SET_BOTH_TIMES)
            assert guest.call("path_filestat_set_times", guest.top, 1, name, *times) != 0
            # (It may link the symbolic link itself.)
            guest.call("path_link", guest.top, 1, name, guest.top, "got")
            assert guest.open("got")[0] != 0
        assert place.state() == before

    def test_a_link_of_the_guest_does_not_lead_out(self, guest: WasiCalls, place: _Place) -> None:
        before = place.state()
        for number, target in enumerate(["..", "../outside", str(place.outside), "deep/../.."]):
            if guest.call("path_symlink", target, guest.top, f"link{number}") != 0:
                continue
            below = f"link{number}/" + ("" if target.endswith("outside") else "outside/")
            assert guest.open(below, DIRECTORY)[0] != 0
            assert guest.open(below + "secret")[0] != 0
            assert guest.open(below + "new", CREATE, WRITE)[0] != 0
        assert place.state() == before

    def test_a_directory_that_is_moved_while_it_is_open_leads_nowhere(
        self, guest: WasiCalls, place: _Place
    ) -> None:
        errno, deep = guest.open("deep/er", DIRECTORY)
        assert errno == 0
        assert guest.call("path_rename", guest.top, "deep/er", guest.top, "er") == 0
        for above in ("..", "../..", "../../.."):
            assert guest.open(f"{above}/outside/secret", at=deep)[0] != 0
        (place.inside / "er").rename(place.outside / "er")
        assert guest.open("../secret", at=deep)[0] != 0

    def test_a_directory_that_becomes_a_link_does_not_lead_out(
        self, guest: WasiCalls, place: _Place
    ) -> None:
        """Another program swaps it while the guest looks."""
        swapped, kept = place.inside / "swapped", place.inside / "kept"
        swapped.mkdir()
        (swapped / "secret").write_text("of the guest")
        before = place.state()
        ended = threading.Event()

        def swap() -> None:
            while not ended.is_set():
                swapped.rename(kept)
                swapped.symlink_to("../outside")
                swapped.unlink()
                kept.rename(swapped)

        swapper = threading.Thread(target=swap)
        swapper.start()
        try:
            for _ in range(self.times(1000)):
                errno, file = guest.open("swapped/secret")
                if errno == 0:
                    assert guest.read(file) == (0, b"of the guest")
                    guest.call("fd_close", file)
                guest.call("path_create_directory", guest.top, "swapped/new")
                guest.call("path_unlink_file", guest.top, "swapped/link")
        finally:
            ended.set()
            swapper.join()
        assert place.state() == before

    def test_files_work_in_a_directory(self, guest: WasiCalls, place: _Place) -> None:
        errno, file = guest.open("deep/../deep/./er//new", CREATE | EXCLUSIVE, READ | WRITE)
        assert errno == 0
        assert guest.write(file, b"one two three") == (0, 13)
        assert guest.call("fd_seek", file, -9, 1, 0) == 0
        assert guest.number(8) == 4
        assert guest.read(file, 3) == (0, b"two")
        assert guest.read(file, 100, offset=8) == (0, b"three")
        assert guest.write(file, b"2", offset=5) == (0, 1)
        assert guest.call("fd_tell", file, 0) == 0
        assert guest.number(8) == 7
        assert guest.call("fd_filestat_set_size", file, 10) == 0
        assert guest.call("fd_filestat_get", file, 0) == 0
        assert int.from_bytes(guest.result(64)[32:40], "little") == 10
        times = (_YEAR_2001, _YEAR_2001, _SET_BOTH_TIMES)
        assert guest.call("fd_filestat_set_times", file, *times) == 0
        path = place.inside / "deep/er/new"
        assert path.stat().st_mtime_ns == _YEAR_2001
        assert guest.call("fd_sync", file) == guest.call("fd_close", file) == 0
        assert guest.call("fd_close", file) != 0
        assert path.read_text() == "one t2o th"
        assert guest.open("deep/er/new", CREATE | EXCLUSIVE, WRITE)[0] != 0

    def test_a_file_is_appended_to(self, guest: WasiCalls, place: _Place) -> None:
        errno, file = guest.open("mine", 0, WRITE, fd_flags=1)
        assert errno == 0
        assert guest.write(file, b", and") == (0, 5)
        with (place.inside / "mine").open("a") as other:
            other.write(" more")
        assert guest.write(file, b" of it") == (0, 6)
        assert (place.inside / "mine").read_text() == "of the guest, and more of it"

    def test_links_within_a_directory_are_followed(self, guest: WasiCalls, place: _Place) -> None:
        (place.inside / "deep/er/link").symlink_to("../../second")
        (place.inside / "second").symlink_to("./deep/er/../../mine")
        (place.inside / "folder").symlink_to("deep/er/")
        errno, file = guest.open("folder/link")
        assert (errno, guest.read(file)) == (0, (0, b"of the guest"))
        assert guest.open("folder/link", follow=False)[0] != 0
        assert guest.call("path_filestat_get", guest.top, 1, "folder/link", 0) == 0
        assert guest.result(64)[16] == 4
        assert guest.call("path_filestat_get", guest.top, 0, "folder/link", 0) == 0
        assert guest.result(64)[16] == 7
        (place.inside / "round").symlink_to("round")
        assert guest.open("round")[0] != 0

    @pytest.mark.parametrize("size", [100, 4096])
    def test_a_directory_is_listed_in_pieces(
        self, guest: WasiCalls, place: _Place, size: int
    ) -> None:
        names = [f"a file with the number {number}" for number in range(50)]
        for name in names:
            (place.inside / "deep" / name).touch()
        errno, directory = guest.open("deep", DIRECTORY)
        assert errno == 0
        listed = guest.names(directory, size)
        assert listed[0] == 0
        assert [name for name in listed[1] if name not in (".", "..")] == sorted([*names, "er"])

    def test_names_are_made_moved_and_removed(self, guest: WasiCalls, place: _Place) -> None:
        inside = place.inside
        assert guest.call("path_create_directory", guest.top, "deep/made") == 0
        assert guest.call("path_rename", guest.top, "mine", guest.top, "deep/made/mine") == 0
        assert guest.call("path_link", guest.top, 0, "deep/made/mine", guest.top, "mine") == 0
        assert (inside / "mine").stat().st_nlink == 2
        assert guest.call("path_symlink", "made/mine", guest.top, "deep/link") == 0
        assert os.readlink(inside / "deep/link") == "made/mine"
        assert guest.call("path_readlink", guest.top, "deep/link", 8192, 4, 0) == 0
        assert guest.result(8196)[8192:] == b"made"
        assert guest.call("path_remove_directory", guest.top, "deep/made") != 0
        for name in ("deep/made/mine", "deep/link"):
            assert guest.call("path_unlink_file", guest.top, name) == 0
        assert guest.call("path_unlink_file", guest.top, "deep/made") != 0
        assert guest.call("path_remove_directory", guest.top, "deep/made") == 0
        assert sorted(os.listdir(inside / "deep")) == ["er"]

    def test_snapshot_0_has_layouts_and_numbers_of_its_own(
        self, host: Host, wat: Wat, place: _Place
    ) -> None:
        if "wasi_unstable" not in host.runtime.wasi_modules:
            pytest.skip(f"{self.runtime} has no snapshot 0")
        self.needs(host, "wasi")
        with skip_if_refused("cannot give"):
            guest = WasiCalls(host, wat, Preopen(place.inside, "/data"), "wasi_unstable")
        errno, file = guest.open("mine")
        assert errno == 0
        size = len("of the guest")
        assert guest.call("fd_filestat_get", file, 0) == 0
        assert int.from_bytes(guest.result(56)[24:32], "little") == size
        assert guest.call("path_filestat_get", guest.top, 0, "mine", 0) == 0
        assert int.from_bytes(guest.result(56)[24:32], "little") == size
        current, end, start = 0, 1, 2
        for whence, offset, wanted in ((end, -2, size - 2), (start, 3, 3), (current, 2, 5)):
            assert guest.call("fd_seek", file, offset, whence, 0) == 0
            assert guest.number(8) == wanted
        guest.close()

    def test_a_read_only_directory_is_not_written_to(
        self, host: Host, wat: Wat, place: _Place
    ) -> None:
        self.needs(host, "wasi")
        (place.inside / "deep/link").symlink_to("../mine")
        inside = place._replace(outside=place.inside)
        before = inside.state()
        with may_refuse("cannot give"):
            guest = WasiCalls(host, wat, Preopen(place.inside, "/data", writable=False))
            for path in ("mine", "deep/link"):
                assert guest.open(path)[0] == 0
                # (A file that is opened for both may turn out to be readable only.)
                for flags, rights in ((0, WRITE), (TRUNCATE, WRITE), (0, READ | WRITE)):
                    errno, file = guest.open(path, flags, rights)
                    assert errno != 0 or guest.write(file, b"x")[0] != 0
            for what, errno in _changes(guest, ""):
                assert errno != 0, what
            errno, deep = guest.open("deep", DIRECTORY)
            assert errno == 0
            assert guest.open("new", CREATE, WRITE, at=deep)[0] != 0
            times = (_YEAR_2001, _YEAR_2001, _SET_BOTH_TIMES)
            for fd in (guest.top, deep, guest.open("mine")[1]):
                assert guest.call("fd_filestat_set_times", fd, *times) != 0
            guest.close()
        assert inside.state() == before


def _attempts(guest: WasiCalls, out: str) -> Iterator[tuple[str, int]]:
    """The errnos of reading and writing below a directory, with names for the messages."""
    for name in ("secret", "new", "empty", "link", ""):
        for flags in (0, CREATE, TRUNCATE, DIRECTORY, CREATE | EXCLUSIVE):
            for rights in (READ, READ | WRITE, WRITE):
                for follow in (True, False):
                    what = f"open {name!r} {flags} {rights} {follow}"
                    yield what, guest.open(f"{out}/{name}", flags, rights, follow=follow)[0]
        for flag in (0, 1):
            path = f"{out}/{name}"
            yield f"look at {name!r}", guest.call("path_filestat_get", guest.top, flag, path, 0)
        yield "read a link", guest.call("path_readlink", guest.top, f"{out}/link", 8192, 100, 0)
    yield from _changes(guest, f"{out}/")


def _changes(guest: WasiCalls, out: str) -> Iterator[tuple[str, int]]:
    for name in ("secret", "mine", "new", "empty", "link", "deep/link"):
        path = out + name
        times = (_YEAR_2001, _YEAR_2001, _SET_BOTH_TIMES)
        for follow in (0, 1):
            yield (
                f"times of {name}",
                guest.call("path_filestat_set_times", guest.top, follow, path, *times),
            )
        yield f"link to {name}", guest.call("path_link", guest.top, 0, path, guest.top, "got")
        yield f"link as {name}", guest.call("path_link", guest.top, 0, "mine", guest.top, path)
        yield f"symlink as {name}", guest.call("path_symlink", "mine", guest.top, path)
        yield f"directory {name}", guest.call("path_create_directory", guest.top, path)
        yield f"move {name}", guest.call("path_rename", guest.top, path, guest.top, "got")
        yield f"move to {name}", guest.call("path_rename", guest.top, "mine", guest.top, path)
        yield f"remove {name}", guest.call("path_unlink_file", guest.top, path)
        yield f"remove directory {name}", guest.call("path_remove_directory", guest.top, path)
