"""Packages installed for real: a fresh environment that shares the running one's libraries, pip, and commands in it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]


def done(command: Sequence[str | Path], folder: Path, code: int = 0) -> str:
    """Runs a command in ``folder`` with this checkout's ``core``; what it printed. Fails unless it exits with ``code``."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run([str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == code, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr


def installed(folder: Path, packages: Sequence[Path]) -> Path:
    """Makes an environment in ``folder`` and installs the packages as a user does in their folders; returns its Python.

    Nothing is downloaded: what they depend on must be there.
    """
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    editable = [part for package in packages for part in ("-e", f"{package}[dev]")]
    options = ["-q", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    done([sys.executable, "-m", "pip", "--python", python, "install", *options, *editable], folder)
    return python


def described_pictures(folder: Path) -> Path:
    """Writes four regions as the scaffolded data set and the example mask-folder read them; returns the folder."""
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (24, 24), (60 * i, 90, 30)).save(folder / f"{i}.png")
        Image.new("L", (24, 24), 255).save(folder / f"{i}.mask.png")
        Image.new("L", (24, 24), 1).save(folder / f"{i}.labels.png")
        (folder / f"{i}.txt").write_text("a plain square")
    return folder
