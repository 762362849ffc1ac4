"""What a guest may do: a policy's rights, and how a run's is laid over its host's."""

from __future__ import annotations

import pickle

import pytest

from wasi_nn import ExecutionTarget, Host, Limits, Policy, UsageError
from wasi_nn.errors import ErrorCode, NotAllowed
from wasi_nn.policy import Policy as PublicPolicy

CPU, GPU = ExecutionTarget.CPU, ExecutionTarget.GPU
MODEL = [memoryview(b"wasi-nn:identity")]
DIGEST, OTHER = f"sha256:{'ab' * 32}", f"sha256:{'cd' * 32}"
OUTER = Policy(
    own_models=True,
    encodings={"onnx", "identity"},
    models={"a", "b"},
    targets={"cpu"},
    isolation={"onnx": "shared"},
    pins={"a": DIGEST},
    limits=Limits(graphs=7),
).checked()


@pytest.fixture
def served(plugins, identity_model):
    """A function that makes hosts of a policy, with the named models ``a`` and ``b``."""
    hosts = []

    def make(policy: Policy | None = None) -> Host:
        host = Host(plugins=plugins, policy=policy)
        hosts.append(host)
        for name in ("a", "b"):
            host.add_model(name, identity_model(name))
        return host

    yield make
    for host in hosts:
        host.close()


def test_a_guest_of_an_embedded_host_may_use_named_models_alone(served):
    with served().open_session() as session:
        session.load_by_name("a")
        with pytest.raises(NotAllowed, match="policy own-models: a guest may use named") as caught:
            session.load(MODEL, "identity", CPU)
        assert (caught.value.rule, caught.value.code) == ("own-models", ErrorCode.SECURITY)
        assert session.graphs.keys() == {0}


def test_a_guest_that_may_bring_models_brings_those_of_the_allowed_encodings(served):
    with served(Policy(own_models=True, encodings=["identity", "GGUF"])).open_session() as session:
        session.load(MODEL, "identity", CPU)
        session.load(MODEL, "autodetect", CPU)
        with pytest.raises(NotAllowed, match="policy encodings: a guest may use ggml, identity, n"):
            session.load(MODEL, "onnx", CPU)
    other = served(Policy(encodings={"onnx"})).open_session()
    with other, pytest.raises(NotAllowed, match="a guest may use onnx, not identity"):
        other.load_by_name("a")


def test_a_guest_may_use_the_named_models_that_its_policy_names(served):
    host = served()
    with host.open_session(policy=Policy(models=["b"])) as session:
        session.load_by_name("b")
        with pytest.raises(NotAllowed, match="policy models: a guest may use b, not 'a'"):
            session.load_by_name("a")
    nothing = host.open_session(policy=Policy(models=[]))
    with nothing, pytest.raises(NotAllowed, match="a guest may use nothing, not 'b'"):
        nothing.load_by_name("b")


def test_a_guest_may_use_the_targets_that_its_policy_names(served):
    with served(Policy(own_models=True, targets=["gpu"])).open_session() as session:
        with pytest.raises(NotAllowed, match="policy targets: a guest may use gpu, not cpu"):
            session.load(MODEL, "identity", CPU)
        with pytest.raises(NotAllowed, match="policy targets: a guest may use gpu, not cpu"):
            session.load_by_name("a")


@pytest.mark.parametrize(
    ("own", "laid"),
    [
        (Policy(), OUTER),
        (Policy(own_models=False), OUTER._replace(own_models=False)),
        (Policy(encodings={"ONNX", "ggml"}), OUTER._replace(encodings={"onnx"})),
        (Policy(models=["b", "c"]), OUTER._replace(models={"b"})),
        (Policy(targets=[GPU]), OUTER._replace(targets=frozenset())),
        (Policy(pins={"b": OTHER}), OUTER._replace(pins={"a": DIGEST, "b": OTHER})),
        (Policy(unsandboxed_programs=True), OUTER._replace(unsandboxed_programs=False)),
        (Policy(limits=Limits(graphs=9)), OUTER),
        (Policy(limits=Limits(graphs=5)), OUTER._replace(limits=Limits(graphs=5))),
        (Policy(models=["c"], loosen=True), OUTER._replace(models={"c"})),
        (Policy(pins={"a": OTHER}, loosen=True), OUTER._replace(pins={"a": OTHER})),
        (
            Policy(limits=Limits(graphs=9), unsandboxed_programs=True, loosen=True),
            OUTER._replace(limits=Limits(graphs=9), unsandboxed_programs=True),
        ),
    ],
)
def test_each_rule_is_laid_over_the_hosts(own, laid):
    outer = OUTER._replace(unsandboxed_programs=False)
    laid = laid._replace(unsandboxed_programs=bool(laid.unsandboxed_programs))
    assert own.over(outer) == laid
    assert pickle.loads(pickle.dumps(own)).over(outer) == laid


def test_a_run_may_not_bring_models_where_its_host_does_not_say_so(served):
    host = served()
    for policy in (Policy(own_models=True), Policy(loosen=True)):
        with host.open_session(policy=policy) as session, pytest.raises(NotAllowed):
            session.load(MODEL, "identity", CPU)
    with host.open_session(policy=Policy(own_models=True, loosen=True)) as session:
        session.load(MODEL, "identity", CPU)


@pytest.mark.parametrize(
    ("isolation", "own", "ggml", "named"),
    [
        (None, "guest", "shared", "none"),
        ("none", "none", "none", "none"),
        ("shared", "guest", "shared", "shared"),
        ({"m": "guest"}, "guest", "shared", "guest"),
        ({"onnx": "shared", "ggml": "none"}, "guest", "none", "shared"),
        ({"onnx": "none"}, "none", "shared", "none"),
        ({"onnx": "shared", "m": "none"}, "guest", "shared", "none"),
    ],
)
def test_isolation_is_by_encoding_or_by_name(isolation, own, ggml, named):
    policy = Policy(isolation=isolation).checked()
    assert policy.isolation_of("onnx", False) == own
    assert policy.isolation_of("ggml", True, "llm") == ggml
    assert policy.isolation_of("onnx", False, "m") == named
    assert policy.isolation_of("onnx", False, "m", "guest") == "guest"


def test_a_run_can_strengthen_the_isolation_and_not_weaken_it():
    host = Policy(isolation={"onnx": "shared"}).checked()
    assert Policy(isolation="none").over(host).isolation_of("onnx", False, "m") == "shared"
    assert Policy(isolation="none").over(host).isolation_of("onnx", False) == "guest"
    assert Policy(isolation="guest").over(host).isolation_of("onnx", False, "m", "none") == "guest"
    assert Policy(isolation={"m": "guest"}).over(host).isolation_of("onnx", False, "m") == "guest"
    assert Policy(isolation={"m": "guest"}).over(host).isolation_of("onnx", False, "n") == "shared"
    assert Policy(isolation="none", loosen=True).over(host).isolation_of("onnx", False) == "none"


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (Policy(own_models="no"), "own_models is 'no', and must be True or False"),
        (Policy(encodings="onnx"), "encodings are 'onnx', and must be a set of names"),
        (Policy(encodings=[5]), "the encoding must be a name"),
        (Policy(models=[""]), "a model's name must be a non-empty string"),
        (Policy(targets=["abacus"]), "there is no execution target 'abacus'"),
        (
            Policy(isolation="gust"),
            "is 'gust', and must be one of none, shared, guest; did you mean",
        ),
        (Policy(isolation={"onnx": 5}), "isolation is 5"),
        (Policy(pins={"a": "md5:5"}), "digest of a model is sha256:.*not 'md5:5'"),
        (Policy(pins=["a"]), "pins are"),
        (Policy(limits=5), "the policy's limits are 5"),
        (Policy(limits=Limits(graphs=-1)), "limit graphs is -1"),
        ({"own_models": True}, "must be Policy"),
        (Policy(pins={"a": OTHER}), "the host pins the model 'a' to another digest"),
    ],
)
def test_a_value_that_no_policy_has_is_a_usage_error(served, policy, says):
    host = served(Policy(pins={"a": DIGEST}))
    with pytest.raises(UsageError, match=says):
        host.open_session(policy=policy)
    if "another digest" not in says:
        with pytest.raises(UsageError, match=says):
            served(policy)


def test_a_models_own_isolation_is_checked(served, identity_model):
    host = served()
    with pytest.raises(UsageError, match="isolation is 'jail'"):
        host.add_model("c", identity_model("c"), isolation="jail")
    host.add_model("c", identity_model("c"), isolation="guest")


def test_the_lower_of_a_policys_limits_and_the_given_ones_holds(plugins):
    policy = Policy(limits=Limits(graphs=5, contexts=3))
    with Host(plugins=plugins, policy=policy, limits=Limits(graphs=2, contexts=9)) as host:
        assert (host.limits.graphs, host.limits.contexts) == (2, 3)


def test_a_policy_is_read_from_toml(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(
        f"""
        own-models = true
        encodings = ["onnx", "gguf"]
        targets = ["cpu"]
        isolation = {{ onnx = "shared" }}
        [pins]
        net = "{DIGEST.upper()}"
        [limits]
        timeout = "500ms"
        host-memory = "2G"
        graphs = 5
        """
    )
    assert Policy.read(path) == PublicPolicy(
        own_models=True,
        encodings={"onnx", "ggml"},
        targets={CPU},
        isolation=({"onnx": "shared"},),
        pins={"net": DIGEST},
        limits=Limits(timeout=0.5, host_memory=2 << 30, graphs=5),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("own_models = true", "no rule 'own_models'; did you mean 'own-models'?"),
        ("qx = 1", "no rule 'qx'; known: own-models, encodings, models"),
        ("loosen = true", "no rule 'loosen'"),
        ("[limits]\ngraph = 1", "no rule 'limits.graph'; did you mean 'graphs'?"),
        ("[limits]\ngraphs = '5M'", "limit graphs is '5M', and must be a whole number"),
        ("[limits]\nmemory = '5X'", "limits.memory takes a size such as 64M"),
        ("[limits]\ntimeout = '5 apples'", "limits.timeout takes seconds"),
        ("limits = 5", "limits is 5, and must be a table"),
        ("encodings = 'onnx'", "encodings is 'onnx', and must be a list"),
        ("encodings = [", "is not TOML"),
        ("own-models = 1", "own_models is 1, and must be True or False"),
    ],
)
def test_a_mistake_in_a_file_is_a_usage_error(tmp_path, text, says):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"policy\.toml.*{says}"):
        Policy.read(path)


def test_a_file_that_is_missing_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot read the policy"):
        Policy.read(tmp_path / "missing.toml")
