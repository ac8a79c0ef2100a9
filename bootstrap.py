"""Sets dualloop up in ``.venv`` beside this file and runs something in it. Needs Python 3.11 or newer and nothing else.

python3 bootstrap.py run          set up, then the main job (two synthetic worlds, and the dual loop on the look without labels)
python3 bootstrap.py test [...]   set up, then the tests (further arguments go to pytest)
python3 bootstrap.py lint         set up, then ruff and the type checker
python3 bootstrap.py setup        set up only
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

NEEDED = (3, 11)
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = str(BIN / ("python.exe" if os.name == "nt" else "python"))


def call(*command: str, **environment: str) -> int:
    """Runs a command in the project's folder; returns its exit code."""
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=False).returncode


def setup() -> None:
    """Makes ``.venv`` with the pinned dependencies, once for each state of pyproject.toml and constraints.txt."""
    stamp = VENV / "dualloop-setup"
    state = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == state:
        return
    print(f"setting up {VENV} (a few minutes, once)", flush=True)
    if not (
        Path(PYTHON).is_file() and subprocess.run((PYTHON, "-m", "pip", "--version"), capture_output=True, check=False).returncode == 0
    ):
        venv.create(VENV, with_pip=True, clear=True)  # whole where an earlier set-up was cut off; one in use is never written over
    install = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "-c", "constraints.txt")
    # torch first and alone: without its pin other packages would pull the newest build with several GB of GPU libraries
    for packages in (("torch==2.13.0",), ("-e", ".[dev]")):
        if code := call(*install, *packages):
            sys.exit(f"pip failed with exit code {code}; the lines above say why")
    stamp.write_text(state)


def main(arguments: list[str]) -> int:
    if sys.version_info[:2] < NEEDED:
        print(f"dualloop needs Python 3.11 or newer; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    what, *rest = arguments or ["help"]
    if what not in ("run", "test", "lint", "setup"):
        print(__doc__)
        return 0 if what in ("help", "-h", "--help") else 2
    setup()
    if what == "run":
        for world in (("data/shapes",), ("data/shapes-dark", "--pictures", "1200", "--seed", "31", "--look", "dark")):
            if code := call(PYTHON, "-m", "plugins.datasets.shapes", *world):
                return code
        return call(PYTHON, "-m", "core.run", "recipes/new_look.yaml", *rest)
    if what == "test":
        from core.cores import cores

        return call(PYTHON, "-m", "pytest", "-n", str(min(cores(), 8)), "--dist", "worksteal", *rest, OMP_NUM_THREADS="1")
    if what == "lint":
        return call(PYTHON, "-m", "ruff", "check", ".") or call(PYTHON, "-m", "mypy")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
