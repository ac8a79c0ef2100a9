"""The versions of what a number may depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("dualloop", "torch", "transformers", "peft", "numpy", "Pillow", "pycocotools", "pycocoevalcap")


def versions() -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # an extra
            continue
    return found
