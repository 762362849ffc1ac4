"""The browser host has the Python host's own numbers."""

import importlib.util
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools/browser_tables.py"


def test_the_generated_tables_are_current():
    spec = importlib.util.spec_from_file_location("browser_tables", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for path, content in tool.FILES.items():
        assert path.read_text() == content(), "run tools/browser_tables.py"
