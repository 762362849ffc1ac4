"""A model is loaded anew when any of the files that it depends on has changed."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from wasi_nn import Host, Limits, Tensor, TensorType
from wasi_nn._models.file_versions import versions
from wasi_nn._worker import memory
from wasi_nn.backend import Backend, ExecutionContext, Graph
from wasi_nn.backend.files import Kept, hold, version
from wasi_nn.errors import ModelNotFound, RuntimeFailure
from wasi_nn.hookspecs import hookimpl
from wasi_nn.plugins import Plugins


class Beside(Backend):
    """Models of a file, a ``.bin`` beside it, and a file that the config names."""

    name = "beside"
    encodings = ("beside",)
    config_keys = frozenset({"extra", "folder", "bad"})

    def __init__(self):
        self.loads = 0
        self.while_loading = lambda: None

    def files(self, paths, config):
        if config.get("bad") == "raises":
            raise KeyError("oh")
        if config.get("bad") == "texts":
            return [str(path) for path in paths]
        named = [Path(config[key]) for key in ("extra", "folder") if key in config]
        return [paths[0], paths[0].with_suffix(".bin"), *named]

    def load(self, builders, options):
        self.loads += 1
        files = [builders[0], builders[0].with_suffix(".bin")]
        text = b"".join(file.read_bytes() for file in files)
        self.while_loading()
        return BesideGraph(text)

    @hookimpl
    def wasi_nn_backends(self):
        return [self]


class BesideGraph(Graph):
    def __init__(self, text):
        self.text = text

    def init_execution_context(self, reserve):
        return BesideContext(self.text)


class BesideContext(ExecutionContext):
    def __init__(self, text):
        self.text = text

    def set_input(self, key, tensor):
        raise NotImplementedError

    def compute(self):
        pass

    def get_output(self, key):
        return Tensor(TensorType.U8, (len(self.text),), memoryview(self.text))


def text(model):
    """What the model answers: what its files held when it was loaded."""
    with model.init_execution_context() as context:
        context.compute()
        return bytes(context.get_output(0).data)


@pytest.fixture
def backend():
    return Beside()


@pytest.fixture
def host(backend):
    plugins = Plugins()
    plugins.register(backend, "beside")
    with Host(plugins=plugins) as host:
        yield host


@pytest.fixture
def model(tmp_path):
    (tmp_path / "m.bin").write_bytes(b"old")
    path = tmp_path / "m.model"
    path.write_bytes(b"model ")
    return path


def rename(file: Path, content: bytes) -> None:
    status = file.stat()
    other = file.with_suffix(".new")
    other.write_bytes(content)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)


def in_place(file: Path, content: bytes) -> None:
    status = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def link(file: Path, content: bytes) -> None:
    status = file.stat()
    for name, data in (("one", file.read_bytes()), ("two", content)):
        file.with_name(name).write_bytes(data)
        os.utime(file.with_name(name), ns=(status.st_atime_ns, status.st_mtime_ns))
    file.unlink()
    file.symlink_to("two")


@pytest.mark.parametrize("change", [rename, in_place, link])
def test_a_changed_file_beside_the_model_is_loaded_again_whatever_its_time(host, model, change):
    host.add_model("m", model, encoding="beside")

    def texts():
        return [text(host.load(model, encoding="beside")), text(host.model("m"))]

    first = host.load(model, encoding="beside")
    assert texts() == [b"model old"] * 2
    change(model.with_suffix(".bin"), b"new")
    assert texts() == [b"model new"] * 2
    assert text(first) == b"model old"


def test_two_changes_at_once_are_told_apart(host, model):
    """The clock of a file system moves in steps, and a load can be shorter than one."""
    for number in range(30):
        in_place(model.with_suffix(".bin"), b"%03d" % number)
        assert text(host.load(model, encoding="beside")) == b"model %03d" % number


def test_a_link_to_another_folder_loads_the_new_model(host, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.model").write_bytes(name.encode())
        (tmp_path / name / "m.bin").write_bytes(b"")
    current = tmp_path / "current"
    for name in ("one", "two", "one"):
        current.unlink(missing_ok=True)
        current.symlink_to(name)
        assert text(host.load(current / "m.model", encoding="beside")) == name.encode()


def test_an_unchanged_model_is_loaded_once(host, backend, model):
    host.add_model("m", model, encoding="beside")
    kept = [host.model("m"), host.load(model, encoding="beside"), host.model("m")]
    link = model.with_name("link.model")
    link.symlink_to(model)
    link.with_suffix(".bin").symlink_to(model.with_suffix(".bin"))
    kept.append(host.load(link, encoding="beside"))
    assert backend.loads == 1
    assert [text(each) for each in kept] == [b"model old"] * 4


def test_a_replaced_model_is_freed_with_its_last_user(host, backend, model, monkeypatch):
    closed = []
    monkeypatch.setattr(BesideGraph, "close", lambda self: closed.append(self.text))
    host.add_model("m", model, encoding="beside")
    with host.open_session() as session:
        session.load_by_name("m")
        rename(model.with_suffix(".bin"), b"new")
        host.model("m")
        gc.collect()
        assert closed == []
    gc.collect()
    assert closed == [b"model old"]


def test_a_missing_file_is_model_not_found(host, model):
    host.add_model("m", model, encoding="beside")
    kept = host.model("m")
    beside = model.with_suffix(".bin")
    beside.unlink()
    for load in (lambda: host.model("m"), lambda: host.load(model, encoding="beside")):
        with pytest.raises(ModelNotFound, match=r"m\.bin: No such file .*m\.model needs this"):
            load()
    assert host.registry.size("m") == 0
    beside.write_bytes(b"back")
    assert text(host.model("m")) == b"model back"
    del kept


def test_a_change_of_a_file_that_the_config_names_is_seen(host, backend, model, tmp_path):
    extra = tmp_path / "extra"
    extra.write_bytes(b"1")
    kept = []
    for content in (b"1", b"2"):
        rename(extra, content)
        config = {"extra": str(extra)}
        kept += [host.load(model, encoding="beside", config=config) for _ in range(2)]
    assert backend.loads == 2


def test_a_change_of_a_file_in_a_folder_is_seen(host, backend, model, tmp_path):
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "weights").write_bytes(b"123")
    (folder / "back").symlink_to(folder)
    config = {"folder": str(folder)}
    names = [Path(each.path).name for each in versions(backend, [model], config)]
    assert names == ["m.model", "m.bin", "weights"]
    kept = [host.load(model, encoding="beside", config=config)]
    in_place(folder / "inner" / "weights", b"321")
    kept.append(host.load(model, encoding="beside", config=config))
    assert backend.loads == 2


def test_a_load_starts_again_if_files_change_meanwhile(host, backend, model):
    beside = model.with_suffix(".bin")
    changes = [b"newer", b"newest"]
    backend.while_loading = lambda: changes and rename(beside, changes.pop(0))
    assert text(host.load(model, encoding="beside")) == b"model newest"
    assert backend.loads == 3
    backend.while_loading = lambda: rename(beside, b"again")
    rename(beside, b"other")
    with pytest.raises(RuntimeFailure, match=r"m\.model changed each of the 3 times"):
        host.load(model, encoding="beside")


def test_a_link_that_changes_back_while_the_model_is_loaded(host, backend, model):
    beside = model.with_suffix(".bin")
    link(beside, b"new")

    def to(name):
        beside.unlink()
        beside.symlink_to(name)

    backend.while_loading = lambda: to("one") if backend.loads == 1 else None
    to("two")
    assert text(host.load(model, encoding="beside")) == b"model old"
    to("two")
    assert text(host.load(model, encoding="beside")) == b"model new"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("raises", "backend beside failed: KeyError"),
        ("texts", "backend beside: files must give a sequence of Path"),
    ],
)
def test_a_backend_that_fails_in_files_is_named(host, model, bad, reason):
    with pytest.raises(RuntimeFailure, match=reason):
        host.load(model, encoding="beside", config={"bad": bad})


def test_files_may_come_from_an_iterator(host, model, monkeypatch):
    files = Beside.files
    monkeypatch.setattr(Beside, "files", lambda *given: iter(files(*given)))
    host.add_model("m", model, encoding="beside")
    assert host.registry.size("m") == model.stat().st_size + 3


def test_all_files_count_against_a_limit(host, model):
    host.add_model("m", model, encoding="beside")
    beside = model.with_suffix(".bin")
    beside.write_bytes(bytes(100))
    assert host.registry.size("m") == 106
    assert host.registry.size("m", {"extra": str(beside)}) == 206
    for held in (205, 206):
        with host.open_session(Limits(host_memory=held)) as session:
            session.load_by_name("m")
            refused = held < 206
            for _ in range(2):
                if refused:
                    with pytest.raises(RuntimeFailure, match="206 more would be above its limit"):
                        session.load_by_name("m", {"extra": str(beside)})
                else:
                    session.load_by_name("m", {"extra": str(beside)})


def test_a_guest_that_keeps_the_replaced_model_holds_two(host, model):
    host.add_model("m", model, encoding="beside")
    with host.open_session(Limits(host_memory=9)) as session:
        graph = session.load_by_name("m")
        session.load_by_name("m")
        rename(model.with_suffix(".bin"), b"new")
        again = session.load_by_name("m")
        assert session.ledger.reserved == 9
        rename(model.with_suffix(".bin"), b"yet")
        with pytest.raises(RuntimeFailure, match="9 more would be above its limit of 9"):
            session.load_by_name("m")
        session.unload(again)
        session.load_by_name("m")
        session.unload(graph)


def test_version_raises_model_not_found(tmp_path):
    with pytest.raises(ModelNotFound, match="No such file"):
        version(tmp_path / "nothing")
    with pytest.raises(ModelNotFound, match="embedded null"):
        version(Path("a\0b"))
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ModelNotFound, match="symbolic links"):
        version(loop)


@pytest.mark.parametrize("system", ["keeps open files", "has paths alone"])
def test_a_kept_file_stays_the_one_that_was_loaded(tmp_path, monkeypatch, system):
    if system == "has paths alone":
        monkeypatch.setattr("wasi_nn.backend.files._DESCRIPTORS", "/nowhere")
    elif not Path("/proc/self/fd").is_dir():
        pytest.skip("the system has no folder of open files")
    file = tmp_path / "file"
    with pytest.raises(ModelNotFound, match="No such file"):
        Kept(file)
    file.write_bytes(b"old")
    kept = Kept(file)
    assert Path(kept.path).read_bytes() == b"old"
    rename(file, b"new")
    if system == "keeps open files":
        assert Path(kept.path).read_bytes() == b"old"
    else:
        with pytest.raises(RuntimeFailure, match="file was changed after the graph was loaded"):
            kept.path  # noqa: B018
    kept = Kept(file)
    file.write_bytes(b"longer")
    with pytest.raises(RuntimeFailure, match="load the graph again"):
        kept.path  # noqa: B018


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no folder of open files")
def test_what_a_builder_holds_is_read_from_there_and_not_copied(tmp_path):
    data = memoryview(b"model")
    assert Kept.of(data) == b"model"
    (tmp_path / "file").write_bytes(data)
    descriptor = memory.pack([data])
    (view,) = memory.unpack(descriptor, [len(data)])
    hold(view, descriptor)
    found = [Kept.of(tmp_path / "file"), Kept.of(view)]
    os.close(descriptor)
    assert [Path(kept.path).read_bytes() for kept in found] == [data, data]
