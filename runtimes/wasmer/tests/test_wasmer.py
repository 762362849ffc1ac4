"""wasmer runs guests as every engine does."""

from __future__ import annotations

import gc
import sys
import threading

import pytest
from conftest import needs_engine

from wasi_nn_conformance.engine_tests import EngineTests

needs_engine("wasmer")


class TestWasmer(EngineTests):
    runtime = "wasmer"

    def test_a_directory_that_becomes_a_link_does_not_lead_out(self):
        pytest.skip(
            "libwasmer 7.4.2 follows it: README.md warns of directories of several programs"
        )

    def test_files_work_in_a_directory(self):
        pytest.skip("libwasmer 7.4.2 sets wrong times")

    def test_a_file_is_appended_to(self):
        pytest.skip("libwasmer 7.4.2 loses what others append")

    def test_links_within_a_directory_are_followed(self):
        pytest.skip("libwasmer 7.4.2 follows no link with .. in it")

    def test_names_are_made_moved_and_removed(self):
        pytest.skip("libwasmer 7.4.2 makes hard links that exist nowhere")

    def test_a_call_from_another_thread_is_refused(self, host, wat):
        """The package's objects panic on another thread."""
        if host.runtime.features.threads:
            pytest.skip("libwasmer's objects may go to other threads")
        program = host.compile(wat('(module (func (export "run")))'))
        answers = []

        def elsewhere(guest):
            try:
                guest.call("run")
            except Exception as error:
                answers.append(str(error))

        with program.instantiate() as guest:
            thread = threading.Thread(target=elsewhere, args=(guest,))
            thread.start()
            thread.join()
            guest.call("run")
        assert answers == ["wasmer runs a guest only on the thread that instantiated it"]

    @pytest.mark.parametrize("body", ["(call $exit (i32.const 3))", "unreachable", ""])
    def test_objects_of_a_thread_are_freed_on_that_thread(self, host, wat, body):
        """A buffer of the package's panics when that happens."""
        wasm = wat(
            f"""(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_ephemeral_nn" "compute" (func $f (param i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start") (drop (call $f (i32.const 9))) {body}))"""
        )
        program = host.compile(wasm)
        results = []
        problems = []
        before, sys.unraisablehook = sys.unraisablehook, problems.append
        try:
            gc.disable()
            thread = threading.Thread(target=lambda: results.append(program.run()))
            thread.start()
            thread.join()
            gc.enable()
            gc.collect()
        finally:
            sys.unraisablehook = before
        assert len(results) == 1
        assert problems == []
