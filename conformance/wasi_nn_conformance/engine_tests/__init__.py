"""What every engine must do, as tests that the tests of a runtime inherit::

    from wasi_nn_conformance.engine_tests import EngineTests

    class TestMyRuntime(EngineTests):
        runtime = "myengine"

``pip install "wasi-nn[testing]"`` installs what they need: pytest, hypothesis, and wasmtime, which
assembles the guests. If your engine is not available, each test is skipped with the reason. So are
tests of features that ``Runtime.features`` does not declare. A limit that the engine cannot hold
must be refused.
"""

from __future__ import annotations

import pytest

_MODULES = """common directories exports feeds files garbage hostcalls limits memory policies
    preopens programs servers signals socket_garbage socket_steps sockets standins starts streams
    tasks waits wasi""".split()
# So that their asserts say what they saw.
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in _MODULES))

from wasi_nn_conformance.engine_tests.directories import Directories  # noqa: E402
from wasi_nn_conformance.engine_tests.exports import Exports  # noqa: E402
from wasi_nn_conformance.engine_tests.feeds import Feeds  # noqa: E402
from wasi_nn_conformance.engine_tests.files import Files  # noqa: E402
from wasi_nn_conformance.engine_tests.garbage import Garbage  # noqa: E402
from wasi_nn_conformance.engine_tests.hostcalls import HostCalls  # noqa: E402
from wasi_nn_conformance.engine_tests.limits import Limited  # noqa: E402
from wasi_nn_conformance.engine_tests.memory import Memory  # noqa: E402
from wasi_nn_conformance.engine_tests.policies import Policies  # noqa: E402
from wasi_nn_conformance.engine_tests.programs import Programs  # noqa: E402
from wasi_nn_conformance.engine_tests.servers import Servers  # noqa: E402
from wasi_nn_conformance.engine_tests.signals import Signals  # noqa: E402
from wasi_nn_conformance.engine_tests.socket_garbage import SocketGarbage  # noqa: E402
from wasi_nn_conformance.engine_tests.sockets import Sockets  # noqa: E402
from wasi_nn_conformance.engine_tests.standins import StandIns  # noqa: E402
from wasi_nn_conformance.engine_tests.starts import Starts  # noqa: E402
from wasi_nn_conformance.engine_tests.streams import StandardStreams  # noqa: E402
from wasi_nn_conformance.engine_tests.tasks import Tasks  # noqa: E402
from wasi_nn_conformance.engine_tests.waits import Waits  # noqa: E402
from wasi_nn_conformance.engine_tests.wasi import Wasi  # noqa: E402

__all__ = ["EngineTests"]


class EngineTests(
    Programs,
    Starts,
    StandardStreams,
    Feeds,
    Directories,
    Files,
    Wasi,
    Waits,
    Sockets,
    Servers,
    Limited,
    Policies,
    Tasks,
    Signals,
    Memory,
    Exports,
    HostCalls,
    StandIns,
    Garbage,
    SocketGarbage,
):
    """Inherit it and name your ``runtime``. ``share`` and ``installed`` are optional.

    Each test gets its fixtures from this class: ``host`` (a ``Host`` with your runtime),
    ``plugins`` (the installed ones; override it to register an object by hand), ``wat`` (the bytes
    of a module in the text format) and ``identity_model`` (a model whose outputs are its inputs).
    To leave a test out, override it and call ``pytest.skip`` with the reason."""
