"""Engines in processes of their own run guests as they do in this one."""

from __future__ import annotations

import pytest

from enginetests import EngineSuite, need
from wasi_nn import Host
from wasi_nn.plugins import Plugins

need("wasmtime")


class TestWasmtime(EngineSuite):
    runtime = "wasmtime@"
