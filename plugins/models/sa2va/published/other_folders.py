"""What a folder is that is no published checkpoint, and what to do with it. Quick: looks at names, and at the first bytes of a file."""

from __future__ import annotations

import re
from pathlib import Path

_ZERO = re.compile(r"(?:bf16_)?zero_pp_rank_\d+_mp_rank_\d+_(?:optim|model)_states\.pt|mp_rank_\d+_model_states\.pt")
_TRAINED = re.compile(r"(?:iter|epoch)_(\d+)\.pth")
_POINTER = b"version https://git-lfs.github.com/spec/"


def is_pointer(file: Path) -> bool:
    """Whether it is the small text that Git LFS leaves in the place of a large file."""
    try:
        with file.open("rb") as stream:
            return stream.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def pointer_sentence(file: Path) -> str:
    return f"{file}: only the pointer of Git LFS, not the file itself; run `git lfs pull` in {file.parent}"


def told(folder: Path) -> str | None:
    """A sentence that says what ``folder`` is instead, with the remedy; None where its names do not tell."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []  # a file is taken for a folder, too
    for what in (_zero, _iterations, _pickled, _other_kinds, _inside):
        if sentence := what(folder, names):
            return f"{folder}: {sentence}"
    return None


def _zero(folder: Path, names: list[str]) -> str | None:
    where, tag = (folder.parent, f" -t {folder.name}") if any(map(_ZERO.fullmatch, names)) else (folder, "")
    if not tag and "latest" not in names and "zero_to_fp32.py" not in names:
        return None
    return (
        f"a checkpoint of DeepSpeed ZeRO, in pieces; join them with DeepSpeed's own script (it unpickles: only what you trust), "
        f"`python -m deepspeed.utils.zero_to_fp32 {where} OUT{tag} --max_shard_size 1000GB`, and give OUT/pytorch_model.bin as a training "
        "file, together with the published folder that training started from"
    )


def _iterations(folder: Path, names: list[str]) -> str | None:
    found = sorted((int(match[1]), name) for name in names if (match := _TRAINED.fullmatch(name)))
    if not found:
        return None
    newest = folder / found[-1][1]
    if newest.is_dir():
        return told(newest)
    return (
        f"the work folder of upstream's trainer; give one of its training files, such as {newest}, and the published folder that "
        "training started from (convert and evaluate: --base; a recipe: use: sa2va.legacy, file, checkpoint)"
    )


def _pickled(folder: Path, names: list[str]) -> str | None:
    pickled = [name for name in names if re.fullmatch(r"pytorch_model.*\.bin", name)]
    if not pickled:
        return None
    return (
        f"its weights are pickled ({pickled[0]}{', ...' if len(pickled) > 1 else ''}), and only safetensors are read; write them anew "
        "where the model's own code runs: AutoModel.from_pretrained(FOLDER, trust_remote_code=True).save_pretrained(NEW), "
        "with safe_serialization=True"
    )


def _other_kinds(folder: Path, names: list[str]) -> str | None:
    if "adapter_config.json" in names or "adapter_model.safetensors" in names:
        return (
            "PEFT's adapters; give the published folder that training started from, too "
            "(convert and evaluate: --base; a recipe: use: sa2va.legacy, file, checkpoint)"
        )
    if "recipe.json" in names or "trained.safetensors" in names:
        return f"a run of this toolkit, with trained tensors only; make a published folder of it: python -m core.convert {folder} OUT"
    if any(name.endswith(".distcp") for name in names):
        return (
            "a checkpoint of torch.distributed, in pieces; join them with `python -m torch.distributed.checkpoint.format_utils "
            f"dcp_to_torch {folder} OUT.pth`, and give OUT.pth as a training file, together with the published folder that training "
            "started from"
        )
    return None


def _inside(folder: Path, names: list[str]) -> str | None:
    """A checkpoint further down: a download's cache, or a folder in a folder of its name."""
    if {"snapshots", "blobs"} <= set(names):
        found = sorted(folder.glob("snapshots/*/config.json"))
    else:
        found = [folder / name / "config.json" for name in names if (folder / name / "config.json").is_file()]
    return f"no checkpoint itself; there is one in {found[-1].parent}" if found else None
