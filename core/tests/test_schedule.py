"""Whom a context computes for, and how soon: what the embedder says reaches the backend."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from wasi_nn import Limits, Policy
from wasi_nn._host.limit_policy import laid_over
from wasi_nn.errors import UsageError
from wasi_nn.types import Tensor, TensorType


@pytest.fixture(scope="module")
def parrot():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "plugins")
        yield importlib.import_module("parrot")


@pytest.mark.parametrize("isolation", ["none", "shared", "guest"])
def test_a_context_is_scheduled_as_the_policy_says(parrot, tmp_path, isolation):
    policy = Policy(priority=3, limits=Limits(tokens_per_second=2.5))
    with parrot.new_host(tmp_path, policy, isolation) as host, host.open_session() as session:
        tenant, *rest = parrot.about(parrot.opened(session))["schedule"]
        assert rest == [3, 2.5]
        assert tenant


def test_a_host_is_a_tenant_of_its_own(parrot, tmp_path):
    tenants = []
    for _ in range(2):
        with parrot.new_host(tmp_path) as host:
            for _ in range(2):
                with host.open_session() as session:
                    tenants.append(parrot.about(parrot.opened(session))["schedule"][0])
            with host.model("bird").init_execution_context() as context:
                tenants.append(parrot.about(context._execution)["schedule"][0])
    assert len(set(tenants[:3])) == len(set(tenants[3:])) == 1
    assert tenants[0] != tenants[3]


def test_a_run_can_lower_its_priority_and_its_rate_only():
    host = Policy(priority=2, limits=Limits(tokens_per_second=10)).checked()

    def laid(priority=None, rate=None, policy=None):
        found = laid_over(host, policy, None, None, priority, rate)
        return found.priority, found.limits.tokens_per_second

    assert laid() == (2, 10)
    assert laid(1, 5) == (1, 5)
    assert laid(3, 20) == (2, 10)
    assert laid(-5) == (-5, 10)
    assert laid(policy=Policy(priority=9, loosen=True)) == (9, 10)
    free = laid_over(Policy(), None, Limits(tokens_per_second=4), None, 7, 3)
    assert (free.priority, free.limits.tokens_per_second) == (7, 3)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), True, "5"])
def test_a_rate_is_a_number_above_0(wrong):
    with pytest.raises(UsageError, match="tokens_per_second"):
        Limits(tokens_per_second=wrong).check()


@pytest.mark.parametrize("wrong", [1.5, True, "5", 10_000])
def test_a_priority_is_a_whole_number(wrong):
    with pytest.raises(UsageError, match="priority"):
        Policy(priority=wrong).checked()


def test_a_policy_file_has_both(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text("priority = -2\n[limits]\ntokens-per-second = 7.5\n")
    policy = Policy.read(file)
    assert (policy.priority, policy.limits.tokens_per_second) == (-2, 7.5)


def counted(host):
    models = host.statistics().models.items()
    return {name: model.counts for name, model in models if model.counts}


def test_a_graph_in_a_worker_counts_for_the_operator(parrot, tmp_path):
    with parrot.new_host(tmp_path) as host, host.open_session() as session:
        assert counted(host) == {}
        context = parrot.opened(session)
        assert counted(host) == {"bird": {"steps": 0.0, "sequences": 0.0}}
        context.set_input(0, Tensor(TensorType.U8, (5,), memoryview(b"a b c")))
        context.compute()
        assert counted(host)["bird"] == {"steps": 3.0, "sequences": 3.0}
        assert bytes(context.get_output(0).data) == b"a b c "


@pytest.mark.parametrize("wrong", [None, {"a": "b"}, {1: 2}, dict.fromkeys(map(str, range(65)), 1)])
def test_a_graph_that_counts_in_another_way_is_named_in_the_log(
    parrot, tmp_path, monkeypatch, caplog, wrong
):
    monkeypatch.setattr(parrot.ParrotGraph, "statistics", lambda graph: wrong)
    with parrot.new_host(tmp_path, isolation="none") as host:
        host.model("bird")
        assert counted(host) == {}
    assert "backend parrot" in caplog.text
