"""The options of a policy, on the command line."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from conftest import needs

from wasi_nn import Limits, Policy
from wasi_nn._cli.policy_options import policy_options

needs("wasmtime")

NOTHING = {}


def given(*arguments: str, others=NOTHING) -> Policy:
    """The policy of a command line."""
    import click

    @click.command()
    @policy_options
    def command(policy):
        return policy.policy(others)

    return command.main(list(arguments), standalone_mode=False)


def wasi_nn(*arguments):
    command = [sys.executable, "-m", "wasi_nn", "run", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return run.returncode, run.stdout, run.stderr


@pytest.fixture
def echo(identity_model, guests):
    """A command line that echoes with a named model."""
    return "--graph", f"echo={identity_model('echo')}", guests / "echo/echo.wasm", "echo", "hello"


def test_the_command_lets_guests_bring_models_unless_it_is_told_not_to(tmp_path):
    path = tmp_path / "p.toml"
    assert given() == Policy(own_models=True)
    assert given("--no-own-models").own_models is False
    path.write_text("")
    assert given("--policy", str(path)).own_models is True
    path.write_text("own-models = false")
    assert given("--policy", str(path)).own_models is False
    assert given("--policy", str(path), "--own-models").own_models is True


def test_each_rule_has_an_option():
    digest = "sha256:" + "ab" * 32
    policy = given(
        *("--encodings", "onnx,ggml", "--models", "a,b", "--targets", "cpu"),
        *("--isolation", "onnx=guest", "--isolation", "a=none", "--unsandboxed-programs"),
        *("--pin", f"a={digest}", "--timeout", "5", "--max-memory", "1K"),
        *("--max-host-memory", "2K", "--fuel", "3", "--max-graphs", "4", "--max-contexts", "5"),
        *("--max-model-bytes", "6K", "--max-tensor-bytes", "7K", "--compute-timeout", "80ms"),
        *("--max-compute-seconds", "9", "--max-tokens", "10", "--max-files", "11"),
        *("--max-wasm-bytes", "12K", "--tokens-per-second", "13.5", "--priority", "-14"),
        *("--max-workers", "15", "--max-sockets", "16", "--listen", "127.0.0.1:80"),
        *("--listen", "[::1]:0", "--connect", "10.0.0.0/8", "--inherit-network"),
    )
    assert policy == Policy(
        own_models=True,
        encodings={"onnx", "ggml"},
        models={"a", "b"},
        targets={"cpu"},
        isolation={"onnx": "guest", "a": "none"},
        unsandboxed_programs=True,
        pins={"a": digest},
        listen=("127.0.0.1:80", "[::1]:0"),
        connect=("10.0.0.0/8",),
        inherit_network=True,
        priority=-14,
        limits=Limits(
            timeout=5,
            memory=1 << 10,
            host_memory=2 << 10,
            fuel=3,
            graphs=4,
            contexts=5,
            model_bytes=6 << 10,
            tensor_bytes=7 << 10,
            compute_timeout=0.08,
            compute_seconds=9,
            tokens=10,
            files=11,
            wasm_bytes=12 << 10,
            tokens_per_second=13.5,
            workers=15,
            sockets=16,
        ),
    )
    # The streams of a command are not captured.
    without = {"own_models", "loosen", "limits"}
    assert all(getattr(policy, name) is not None for name in {*Policy._fields} - without)
    unset = {n for n in Limits._fields if getattr(policy.limits, n) == getattr(Limits(), n)}
    assert unset == {"output", "loosen"}


def test_an_option_comes_before_another_hosts_and_both_before_the_file(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text("isolation = 'shared'\n[limits]\ntimeout = 1\nfuel = 1\ngraphs = 1\n")
    others = {"timeout": 2, "fuel": 2}
    policy = given("--policy", str(path), "--timeout", "3", "--isolation", "guest", others=others)
    assert policy.limits == Limits(timeout=3, fuel=2, graphs=1)
    assert policy.isolation == "guest"


def test_a_rule_holds_is_named_and_is_counted(echo, tmp_path):
    assert wasi_nn(*echo) == (0, "hello", "")
    for rule, options in (
        ("policy models", ["--models", "other"]),
        ("policy encodings", ["--encodings", "onnx"]),
        ("policy targets", ["--targets", "gpu"]),
        ("quota graphs", ["--max-graphs", "0"]),
        ("quota contexts", ["--max-contexts", "0"]),
        ("quota tensor-bytes", ["--max-tensor-bytes", "3"]),
        ("policy pins", ["--pin", f"echo=sha256:{'0' * 64}"]),
    ):
        code, out, err = wasi_nn("--stats", *options, *echo)
        assert (code, out) == (1, ""), options
        assert f": {rule}: " in err
        assert f"by the rule {rule.split()[1]}" in err
    path = tmp_path / "p.toml"
    path.write_text("models = ['other']")
    assert "policy models: a guest may use other, not 'echo'" in wasi_nn("--policy", path, *echo)[2]


def test_a_pinned_model_runs(echo, identity_model):
    digest = hashlib.sha256(identity_model("echo").read_bytes()).hexdigest()
    assert wasi_nn("--pin", f"echo=sha256:{digest}", *echo) == (0, "hello", "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--policy", "missing.toml"], "cannot read the policy missing.toml"),
        (["--isolation", "gest"], "must be one of none, shared, guest; did you mean 'guest'?"),
        (["--isolation", "ecko=guest"], "--isolation names 'ecko', which is not a model here; did"),
        (["--isolation", "guest", "--isolation", "echo=none"], "--isolation takes NAME=VALUE here"),
        (["--pin", "echo=md5:1"], "sha256: and 64 hexadecimal digits"),
        (["--pin", "sha256:1"], "--pin takes NAME=VALUE"),
        (["--pin", f"ecko=sha256:{'0' * 64}"], "--pin names 'ecko'"),
        (["--targets", "abacus"], "there is no execution target 'abacus'"),
        (["--max-graphs", "-1"], "--max-graphs"),
        (["--compute-timeout", "soon"], "--compute-timeout takes seconds"),
        (["--max-tensor-bytes", "some"], "--max-tensor-bytes takes a size"),
    ],
)
def test_a_mistake_in_an_option_is_a_usage_error(echo, options, says):
    code, out, err = wasi_nn(*options, *echo)
    assert (code, out) == (2, "")
    assert says in err
