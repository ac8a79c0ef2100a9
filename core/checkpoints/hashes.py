"""What tells two files, or two model folders, apart."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """Of a file; of a folder, over the names and contents of its weights and JSON files."""
    if path.is_file():
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.suffix in (".safetensors", ".json", ".bin", ".pth") and file.is_file()):
        digest.update(f"{file.name}\0{sha256(file)}\n".encode())
    return digest.hexdigest()
