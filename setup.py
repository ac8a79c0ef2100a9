"""Puts the recipes and the small base into the wheel; everything else is in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithFiles(build_py):
    """``recipes/`` and ``assets/`` lie at the top of a checkout, in a wheel in ``core/installed/files``."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # they are read where they lie
            return
        for folder in ("recipes", "assets"):
            self.copy_tree(folder, str(Path(self.build_lib, "core", "installed", "files", folder)))


setup(cmdclass={"build_py": WithFiles})
