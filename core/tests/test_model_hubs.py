"""Models of the Hugging Face Hub and of S3, through their own libraries, from servers here."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import hide, needs
from model_server import ModelServer, digest

IDENTITY = b"wasi-nn:identity {}\n" + b" " * 5_000_000
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server():
    with ModelServer() as made:
        yield made


@pytest.fixture
def models(tmp_path, server):
    env = os.environ | {
        "WASI_NN_MODELS_FILE": str(tmp_path / "models.toml"),
        "WASI_NN_MODELS_CACHE": str(tmp_path / "cache"),
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": server.url,
        "AWS_DEFAULT_REGION": "here",
    }

    def call(*arguments, code=0, **more):
        run = subprocess.run(
            [sys.executable, "-m", "wasi_nn", "models", *arguments],
            capture_output=True,
            text=True,
            env=env | more,
        )
        assert run.returncode == code, run.stderr
        return run

    return call


@pytest.fixture
def hub(server):
    """A hub with one repository, whose card names a licence."""
    needs("huggingface_hub")
    about = {
        "id": "me/small",
        "sha": COMMIT,
        "cardData": {"license": "apache-2.0"},
        "siblings": [{"rfilename": "m.identity", "size": len(IDENTITY)}],
    }

    def tell(handler):
        handler.give(json.dumps(about).encode())

    def resolve(handler):
        send = handler.end_headers

        def with_commit():
            handler.send_header("X-Repo-Commit", COMMIT)
            send()

        handler.end_headers = with_commit
        handler.give(IDENTITY, handler.headers.get("Range"))
        handler.end_headers = send

    server.files |= {
        "/api/models/me/small": tell,
        f"/api/models/me/small/revision/{COMMIT}": tell,
        f"/me/small/resolve/{COMMIT}/m.identity": resolve,
    }
    return server


def test_a_model_of_the_hub_comes_with_its_licence(hub, models):
    run = models("add", "net", "hf://me/small/m.identity")
    assert run.stderr == (
        "wasi-nn: downloading hf://me/small/m.identity (4.8 MB, licence apache-2.0)\n"
    )
    assert run.stdout == f"net: identity, 4.8 MB, licence apache-2.0, {digest(IDENTITY)}\n"
    assert "licence apache-2.0" in models("list").stdout
    assert models("verify").stdout == "net: as it was added\n"
    models("add", "--replace", "net", f"hf://me/small@{COMMIT}/m.identity")


def test_what_the_hub_does_not_have_is_one_line(hub, models):
    run = models("add", "net", "hf://me/small/other", code=2)
    assert "the repository has no file 'other'" in run.stderr
    run = models("add", "net", "hf://me/none/other", code=2)
    assert "hf://me/none/other: " in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_model_of_a_bucket_is_read_in_parts(server, models):
    needs("s3fs")
    server.files["/bucket/dir/m.identity"] = IDENTITY
    run = models("add", "net", "s3://bucket/dir/m.identity")
    assert run.stdout == f"net: identity, 4.8 MB, {digest(IDENTITY)}\n"
    assert len([asked for asked in server.ranges_asked if asked]) == 2


def test_a_bucket_without_the_file_is_one_line(server, models):
    needs("s3fs")
    run = models("add", "net", "s3://bucket/none", code=2)
    assert "s3://bucket/none: " in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "extra"), [("hf://me/small/m", "hf"), ("s3://bucket/m", "s3")], ids=["hf", "s3"]
)
def test_a_missing_package_is_a_sentence(models, tmp_path, url, extra):
    hide(tmp_path, "huggingface_hub", "s3fs")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = models("add", "net", url, code=2, PYTHONPATH=path)
    assert f'pip install "wasi-nn[{extra}]"' in run.stderr
    assert run.stderr.count("\n") == 1
