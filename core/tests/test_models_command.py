"""`wasi-nn models`, the models file, and how runs and hosts use it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest
from conftest import run_python
from model_server import ModelServer, digest

from wasi_nn import Host
from wasi_nn._models import catalogue
from wasi_nn.errors import NotAllowed, UsageError

IDENTITY = b"wasi-nn:identity {}\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's folders."""
    monkeypatch.setenv("WASI_NN_MODELS_FILE", str(tmp_path / "config/models.toml"))
    monkeypatch.setenv("WASI_NN_MODELS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def server():
    with ModelServer() as made:
        made.files["/m.identity"] = IDENTITY
        yield made


@pytest.fixture
def wasi_nn(home):
    def call(*arguments, code=0):
        run = subprocess.run(
            [sys.executable, "-m", "wasi_nn", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=home,
        )
        assert run.returncode == code, run.stderr
        return run

    return call


@pytest.fixture
def models(wasi_nn):
    return lambda *arguments, code=0: wasi_nn("models", *arguments, code=code)


@pytest.fixture
def echo(guests):
    return guests / "echo/echo.wasm"


def test_a_guest_finds_a_model_by_its_name(models, wasi_nn, server, echo, home):
    url = f"{server.url}/m.identity"
    added = models("add", "net", url)
    assert added.stdout == f"net: identity, 20 bytes, {digest(IDENTITY)}\n"
    assert added.stderr == f"wasi-nn: downloading {url} (20 bytes)\n"
    asked = len(server.requests)
    assert wasi_nn("run", echo, "net", "hi").stdout.strip() == "hi"
    assert wasi_nn("run", "--graph", "net", echo, "net", "hi").stdout.strip() == "hi"
    assert len(server.requests) == asked
    file = home / "config/models.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_url_is_a_models_file_of_the_option_graph(wasi_nn, server, echo):
    url = f"{server.url}/m.identity"
    for spelling in (f"net={url}", f"net=identity:{url}", f"net=identity:cpu:{url}"):
        assert wasi_nn("run", "--graph", spelling, echo, "net", "hi").stdout.strip() == "hi"
    wasi_nn("run", "--nn-preload", f"net:identity:CPU:{url}", echo, "net", "hi")
    assert len(server.requests) == 2
    run = wasi_nn("run", "--graph", f"net={server.url}/none", echo, "net", code=2)
    assert "model 'net': " in run.stderr
    assert "404" in run.stderr
    listed = json.loads(wasi_nn("models", "list", "--json", "-").stdout)
    assert [one["sources"] for one in listed["downloads"]["without_name"]] == [[url]]
    wasi_nn("models", "remove", url)
    assert json.loads(wasi_nn("models", "list", "--json", "-").stdout)["downloads"]["size"] == 0


def test_a_guest_starts_no_download(models, wasi_nn, server, echo, home):
    models("add", "net", f"{server.url}/m.identity")
    for path in (home / "cache").iterdir():
        if path.is_dir():
            path.rename(home / "away")
    asked = len(server.requests)
    run = wasi_nn("run", echo, "net", "hi", code=1)
    assert "the model 'net' is not downloaded: wasi-nn models fetch net" in run.stderr
    assert "net: not downloaded" in models("list").stdout
    assert "not downloaded" in models("verify", code=1).stdout
    assert len(server.requests) == asked
    models("fetch")
    assert wasi_nn("run", echo, "net", "hi").stdout.strip() == "hi"


def test_files_that_were_changed_are_refused(models, wasi_nn, server, echo, home):
    models("add", "net", f"{server.url}/m.identity")
    (home / "own").write_bytes(IDENTITY)
    models("add", "own", "own")
    assert models("verify").stdout == "net: as it was added\nown: as it was added\n"
    for path in ((home / "own"), *(home / "cache").rglob("m.identity")):
        path.write_bytes(IDENTITY + b" ")
    for name in ("net", "own"):
        run = wasi_nn("run", echo, name, "hi", code=1)
        assert "pins" in run.stderr
        assert f"not {digest(IDENTITY)}" in run.stderr
    found = json.loads(models("verify", "--json", "-", code=1).stdout)
    assert [one["sound"] for one in found] == [False, False]
    assert "wasi-nn models add --replace own" in found[1]["reason"]
    models("add", "--replace", "own", "own")
    assert wasi_nn("run", echo, "own", "hi").stdout.strip() == "hi"


def test_a_digest_that_is_given_is_checked_at_once(models, server, home):
    right, wrong = digest(IDENTITY), digest(b"")
    run = models("add", "net", f"{server.url}/m.identity", "--digest", wrong, code=2)
    assert f"not {wrong}" in run.stderr
    (home / "own").write_bytes(IDENTITY)
    assert f"not {wrong}" in models("add", "own", "own", "--digest", wrong, code=2).stderr
    models("add", "own", "own", "--digest", right)
    assert list(catalogue.read().models) == ["own"]


def test_what_is_not_a_model_is_not_added(models, server, home):
    server.files["/page"] = b"<!DOCTYPE html><html></html>"
    assert "gave an HTML page" in models("add", "net", f"{server.url}/page", code=2).stderr
    (home / "noise").write_bytes(b"noise")
    assert "the encoding is not recognised" in models("add", "net", "noise", code=2).stderr
    assert not (home / "config/models.toml").exists()


def test_names_are_checked(models, home):
    (home / "own").write_bytes(IDENTITY)
    models("add", "own", "own")
    assert "--replace puts this one in its place" in models("add", "own", "own", code=2).stderr
    assert "is not a name for a model" in models("add", "a=b", "own", code=2).stderr
    assert "did you mean 'own'?" in models("remove", "owm", code=2).stderr
    assert "did you mean 'own'?" in models("verify", "owm", code=2).stderr


def test_what_the_user_wrote_stays(models, home):
    file = home / "config/models.toml"
    file.parent.mkdir()
    file.write_text('# mine\ncache-size = "1G"\n\n[models.a]  # the first\nfiles = ["../own"]\n')
    (home / "own").write_bytes(IDENTITY)
    models("add", "b", "own", "--config", '{"stream": 1}', "--isolation", "guest")
    text = file.read_text()
    assert text.startswith('# mine\ncache-size = "1G"\n\n[models.a]  # the first\n')
    found = catalogue.read()
    assert found.cache_size == 1 << 30
    assert found.models["a"].files == (str(home / "config/../own"),)
    assert (found.models["b"].config, found.models["b"].isolation) == ({"stream": 1}, "guest")
    models("remove", "b")
    assert file.read_text().rstrip() == text[: text.index("[models.b]")].rstrip()


def test_a_link_to_the_models_file_stays_a_link(models, home):
    (home / "own").write_bytes(IDENTITY)
    (home / "config").mkdir()
    (home / "config/models.toml").symlink_to(home / "dotfile.toml")
    models("add", "own", "own")
    assert (home / "config/models.toml").is_symlink()
    assert "own" in (home / "dotfile.toml").read_text()


def test_downloads_of_a_model_that_is_removed_go_too(models, server, home):
    models("add", "net", f"{server.url}/m.identity")
    models("add", "same", f"{server.url}/m.identity")
    models("remove", "net")
    assert list((home / "cache").rglob("m.identity")), "another model has this file"
    models("remove", "same")
    assert not list((home / "cache").rglob("m.identity"))


def test_many_processes_add_models_at_the_same_time(home):
    (home / "own").write_bytes(IDENTITY)
    code = (
        "import sys; from wasi_nn._models.catalogue import Entry, editing\n"
        "for n in range(10):\n"
        "    with editing(None) as (_, change): change(f'm{sys.argv[1]}-{n}', Entry('', ('x',)))"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [process.wait(60) for process in both] == [0, 0, 0]
    assert len(catalogue.read().models) == 30


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[models.a]\nfile = 'x'", "no key 'models.a.file'; did you mean 'files'?"),
        ("model = 1", "no key 'model'; did you mean 'models'?"),
        (
            "[models.a]\nfiles = ['x']\n\n[models.'a']\nfiles = ['y']",
            "two models 'a', in lines 1 and 4: remove one of them, or give it another name",
        ),
        ("[models", "is not TOML"),
        ("[models.a]", "the model 'a': it has no files"),
        ("[models.a]\nfiles = 'x'", "must be a list of texts"),
        ("[models.a]\nfiles = ['x']\ndigest = 'x'", "the digest of a model is sha256:"),
        ("[models.a]\nfiles = ['x']\ntarget = 'moon'", "moon"),
        ("[models.a]\nfiles = ['x']\nencoding = 3", "must be a text"),
        ("[models.a]\nfiles = ['x']\nconfig = 3", "must be a table"),
        ("[models.a]\nfiles = ['x']\nbeside = ['y']", "give URLs alone"),
        ("models = 3", "must be a table"),
        ("cache-size = 'much'", "cache-size takes a size such as 64M"),
        ("cache-size = 0", "must be a size such as '20G'"),
        ("[models.'a b']\nfiles = ['x']", "'a b' is not a name for a model"),
        ("\xff", "cannot read the models file"),
    ],
)
def test_a_models_file_with_a_mistake_says_what_to_do(tmp_path, text, says):
    file = tmp_path / "models.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as raised:
        catalogue.read(file)
    assert says in str(raised.value)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_models_file_that_is_named_must_be_there(wasi_nn, echo, home):
    run = wasi_nn("run", "--models-file", "none.toml", echo, "net", code=2)
    assert run.stderr == "wasi-nn: there is no models file none.toml\n"
    run = wasi_nn("run", "--graph", "nobody", echo, code=2)
    assert "there is no model 'nobody' in" in run.stderr


def test_an_empty_variable_means_no_models_file(home, monkeypatch):
    monkeypatch.setenv("WASI_NN_MODELS_FILE", "")
    assert catalogue.read() == catalogue.Catalogue(None)
    with pytest.raises(UsageError, match="WASI_NN_MODELS_FILE is empty"), catalogue.editing(None):
        pass


def test_a_host_offers_the_models_of_a_file(home, server):
    file = home / "some.toml"
    url = f"{server.url}/m.identity"
    file.write_text(f'[models.net]\nfiles = ["{url}"]\n[models.bad]\nfiles = ["{url}"]\n')
    with Host() as host:
        assert host.add_models(file) == ("net", "bad")
        assert host.models == ("bad", "net")
        host.model("net")
        host.add_model("own", url, digest=digest(IDENTITY))
        host.load(url)
        with pytest.raises(UsageError, match="404"):
            host.add_model("none", f"{server.url}/none")
    file.write_text(f'[models.net]\nfiles = ["{url}"]\ndigest = "{digest(b"")}"\n')
    with Host() as host:
        host.add_models(file)
        with pytest.raises(NotAllowed, match="pins"):
            host.model("net")


def test_a_run_without_a_download_imports_nothing_for_it(echo, home, identity_model):
    model = identity_model("echo")
    code = (
        "import sys; sys.argv = ['wasi-nn', 'run', '--graph', f'm={sys.argv[1]}', *sys.argv[2:]]\n"
        "from wasi_nn.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "names = {'filelock', 'platformdirs', 'tomlkit', 'urllib.request', 'tomllib', 'tomli',\n"
        "         'fsspec', 'huggingface_hub', 'wasi_nn._models.catalogue'}\n"
        "print(sorted(names & set(sys.modules)))"
    )
    run = run_python(code, model, echo, "m", "hi", env=os.environ)
    assert run.stdout.endswith("[]\n"), run.stderr
