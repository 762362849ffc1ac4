"""Load and run damaged models in a separate process, because one of them may kill the library.

``python -m authoring.mutants ENCODING FOLDER INPUT.npy`` runs every file in FOLDER and prints a
line before and after each. ``deaths`` restarts it after a model that it did not survive.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MEMORY = 8 << 30
_SECONDS = 120.0


def damage(sound: bytes, cuts: int, flips: int, seed: int = 5) -> list[bytes]:
    """Truncations of a model, and copies of it with one to four bytes changed."""
    chance = random.Random(seed)
    mutants = [sound[: len(sound) * cut // cuts] for cut in range(cuts)]
    for _ in range(flips):
        mutant = bytearray(sound)
        for _ in range(chance.randint(1, 4)):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        mutants.append(bytes(mutant))
    return mutants


def deaths(encoding: str, mutants: Sequence[bytes], example: Path, folder: Path) -> list[str]:
    """The names of the models that killed the process or ran for two minutes."""
    left = []
    for number, mutant in enumerate(mutants):
        path = folder / f"{number:04}"
        path.write_bytes(mutant)
        left.append(path.name)
    died = []
    while left:
        command = [sys.executable, "-m", "authoring.mutants", encoding, str(folder), str(example)]
        try:
            run = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
            printed = run.stdout
        except subprocess.TimeoutExpired as error:
            printed = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else ""
        lines = printed.splitlines()
        begun = [line.split()[1] for line in lines if line.startswith("begin ")]
        ended = {line.split()[1] for line in lines if line.startswith("end ")}
        died += [name for name in begun if name not in ended]
        if not begun:
            raise RuntimeError("the process that runs damaged models did not start")
        for name in begun:
            (folder / name).unlink()
        left = [name for name in left if name not in begun]
    return died


def main(encoding: str, folder: str, example: str) -> None:
    """Run every file of the folder. An ``NnError`` counts as an answer."""
    import numpy as np

    from wasi_nn import Host, NnError

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    x = np.load(example)
    with Host() as host:
        for path in sorted(Path(folder).iterdir()):
            print("begin", path.name, flush=True)
            try:
                model = host.load(path.read_bytes(), encoding=encoding)
                with model.init_execution_context() as context:
                    context.set_input(0, x)
                    context.compute()
                    context.get_output(0)
            except NnError:
                pass
            print("end", path.name, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
