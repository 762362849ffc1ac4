"""The checked-in guests: what their sources give, and what they answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_guest_is_what_its_source_gives():
    pytest.importorskip("ziglang")
    run = subprocess.run(
        [sys.executable, str(ROOT / "conformance/guests/build.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def identify():
    magika = pytest.importorskip("magika")
    package = Path(magika.__file__).parent
    from wasi_nn import Host

    host = Host()
    host.add_model("magika", package / "models/standard_v3_3/model.onnx")
    guest = host.compile(ROOT / "conformance/guests/magika/magika.wasm")
    native = magika.Magika()

    def compare(folder: Path) -> dict[str, str]:
        names = sorted(path.name for path in folder.iterdir())
        result = guest.run(
            [
                *("--config", "/magika/models/standard_v3_3/config.min.json"),
                *("--kb", "/magika/config/content_types_kb.min.json"),
                *(f"/files/{name}" for name in names),
            ],
            dirs={"/magika": package, "/files": folder},
        )
        assert result.exit_code == 0, result.stderr
        labels = {}
        for name, line in zip(names, result.stdout.decode().splitlines(), strict=True):
            label, score, path = line.split("\t")
            expected = native.identify_path(folder / name)
            assert path == f"/files/{name}"
            assert label == expected.output.label, name
            assert float(score) == pytest.approx(expected.score, abs=0.0011), name
            labels[name] = label
        return labels

    yield compare
    host.close()


class TestMagika:
    """The demo's guest against the Python package, file by file."""

    def test_the_guest_agrees_with_the_package_on_the_demos_files(self, identify):
        labels = identify(ROOT / "examples/magika/samples")
        assert len(labels) >= 20
        assert len(set(labels.values())) >= 20

    def test_the_guest_agrees_with_the_package_on_corner_cases(self, identify, tmp_path):
        import random

        chance = random.Random(3)
        cases = {
            "empty": b"",
            "one": b"a",
            "seven": b"abcdefg",
            "eight": b"abcdefgh",
            "latin1": b"caf\xe9",
            "utf8": "naïve".encode(),
            "overlong": b"\xc0\xaf",
            "surrogate": b"\xed\xa0\x80",
            "astral": "😀".encode(),
            "too high": b"\xf4\x90\x80\x80",
            "cut short": "😀".encode()[:3],
            "blank": b" \t\r\n" * 20,
            "blank and long": b"\n" * 5000,
            "blank then text": b" " * 40 + b"short",
            "blank then code": b"\n" * 3000 + b"import os\nprint(os.getcwd())\n" * 30,
            "noise": chance.randbytes(3000),
            "4095": chance.randbytes(4095),
            "4096": b"int main(void) { return 0; }\n" * 150,
            "4097": b"x" * 4097,
            "1024": b"def f(x):\n    return x\n" * 45,
            "text": b"Just a few plain words, nothing more than that.",
        }
        cases["4096"] = cases["4096"][:4096]
        for name, data in cases.items():
            (tmp_path / name).write_bytes(data)
        (tmp_path / "folder").mkdir()
        labels = identify(tmp_path)
        assert labels["empty"] == "empty"
        assert labels["folder"] == "directory"
        assert labels["latin1"] == "unknown"
        assert labels["utf8"] == "txt"
