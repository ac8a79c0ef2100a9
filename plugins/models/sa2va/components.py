"""The components of this package: ``sa2va``, ``sa2va.scratch``, ``sa2va.legacy``.

Signatures are read to check a recipe, and that must be quick: everything heavy is imported when a function is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from core.contracts import Count, ShareBelow1, UserError, Within, offers
from plugins.models.sa2va.groups import Group, Lora
from plugins.models.sa2va.mask_rule import MaskRule
from plugins.models.sa2va.published.known import family_of, identity
from plugins.models.sa2va.published.other_folders import told
from plugins.models.sa2va.sizes import NewFamily, Sizes
from plugins.models.sa2va.video import DecoderVersion, Frames, Propagate, Video

if TYPE_CHECKING:
    from plugins.models.sa2va.model import Sa2va

__all__ = ["Group", "Lora", "Sizes", "load", "load_legacy", "scratch"]


def _facts(**given: Any) -> Mapping[str, Any]:
    """What is known of a checkpoint without its weights; see ``published.facts``."""
    from plugins.models.sa2va.published.facts import facts

    return facts(**given)


#: What torch.save wrote, by the end of its name.
_TRAINING_FILES = (".pth", ".pt", ".bin")


def _reads_folder(path: Path, base: Path | None) -> Mapping[str, Path] | None:
    """A folder with a config.json is a checkpoint, and needs no base. Raises ``UserError`` for one that is known to be something else."""
    if base is None and (path / "config.json").is_file():
        return {"checkpoint": path}
    if path.is_dir() and not (path / "adapter_config.json").is_file() and (sentence := told(path)):
        raise UserError(sentence)
    return None


def _reads_trained(path: Path, base: Path | None) -> Mapping[str, Path] | None:
    """A training file, or a folder of PEFT's adapters, and the folder that its training started from."""
    trained = (path.suffix in _TRAINING_FILES and path.is_file()) or (path / "adapter_config.json").is_file()
    return {"file": path, "checkpoint": base} if trained and base is not None else None


def _is_checkpoint(**given: Any) -> None:
    """Raises ``UserError`` for a folder that holds no checkpoint; see ``ChecksKeys``."""
    checkpoint = given["checkpoint"]
    _check_video(**given)
    weights = ("model.safetensors", "model.safetensors.index.json")
    lacking = [] if (checkpoint / "config.json").is_file() else ["config.json"]
    lacking += [] if any((checkpoint / name).is_file() for name in weights) else [f"{weights[0]} (or {weights[1]})"]
    if lacking:
        has = f"a checkpoint folder in the published layout has config.json and {weights[0]}, or its pieces with {weights[1]}"
        raise UserError("checkpoint " + (told(checkpoint) or f"{checkpoint} has no {' and no '.join(lacking)}: {has}"))
    if config := _config(checkpoint):
        try:
            family_of(config, str(checkpoint / "config.json"))
        except UserError as fault:
            raise UserError(f"checkpoint {fault}") from None


def _check_video(**given: Any) -> None:
    """Raises ``UserError`` for choices that do not go together, and for a file that is not there."""
    video = Video(**{name: given[name] for name in ("frames", "propagate", "sam2") if name in given})
    if video.sam2 is not None and not video.sam2.is_file():
        raise UserError(f"sam2 {video.sam2} is not there; it is SAM2's own file, such as sam2_hiera_large.pt")


def _config(checkpoint: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder; {} where there is none or it cannot be read, which loading tells."""
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _identity(**given: Any) -> str | None:
    """Which published checkpoint this is by its sizes; see ``TellsIdentity``."""
    checkpoint = given["checkpoint"]
    config = _config(checkpoint)
    try:
        return f"{checkpoint} has {identity(config, str(checkpoint))}" if config else None
    except UserError:
        return None  # told by what checks the keys


@offers(facts=_facts, reads=_reads_folder, check_keys=_is_checkpoint, identity=_identity)
def load(
    *,
    checkpoint: Path,
    lora: Lora | None = None,
    train: list[Group] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    max_tiles: Count = 12,
    sam_constants: Literal["exact", "bfloat16"] = "exact",
    resize: Literal["exact", "fast"] = "exact",
    mask_rule: MaskRule = "first",
    frames: Frames = "first",
    propagate: Propagate = "tuned",
    sam2: Path | None = None,
    decoder: DecoderVersion = "auto",
) -> Sa2va:
    """Loads a folder in the published layout.

    ``train`` names the trained groups (default: the four of the method, without ``lora`` if there are no adapters);
    ``dtype`` is that of frozen weights, trained ones are float32. ``max_tiles`` bounds the tiles of a picture in training
    and inference; published checkpoints use 12. ``sam_constants: bfloat16`` rounds the mean and std of SAM2's pictures as
    upstream's inference does, which flips up to 0.3 % of a mask's pixels; its training does not. ``resize: fast`` halves the
    loaders' work; some pixels then differ from upstream's by 1 of 255. ``mask_rule`` says which masks of an answer count where one
    is asked for: the first, the union of all, or of those whose [SEG] stands inside <answer>...</answer>.
    Of a video, ``frames`` says which five the language model sees, and ``propagate`` who carries their masks to the others: the trained
    mask decoder as upstream does it, or, from the finished masks as prompts, the ``original`` one. That is read from ``sam2``, SAM2's own
    file (``sam2_hiera_large.pt``), or else it is the one that ``checkpoint`` stores. ``decoder``: which SAM 2 the checkpoint must hold.
    Raises ``UserError`` for a folder that is no complete Sa2VA checkpoint.
    """
    from plugins.models.sa2va.published.load import load_folder

    video = Video(frames, propagate, sam2)
    return load_folder(checkpoint, lora, train, dtype, max_tiles, sam_constants, resize, mask_rule, video, decoder)


def scratch(
    *,
    folder: Path,
    corpus: Path,
    train: list[Group],
    sizes: Sizes | None = None,
    template: str = "qwen_chat",
    seed: Annotated[int, Within(0)] = 0,
    vocabulary: Count = 448,
    mask_rule: MaskRule = "first",
    family: NewFamily = "internvl",
) -> Sa2va:
    """Writes a new model to ``folder`` (or takes the one that an equal call wrote there) and loads it for training.

    ``corpus``: text lines from which the tokenizer learns its merges. ``family``: the vision-language model under it.
    Raises ``UserError`` if ``folder`` holds something else.
    """
    from plugins.models.sa2va.published.scratch import make

    return make(folder, corpus, train, sizes, template, seed, vocabulary, mask_rule, family)


@offers(facts=_facts, reads=_reads_trained, check_keys=_is_checkpoint, identity=_identity)
def load_legacy(
    *,
    file: Path,
    checkpoint: Path,
    lora_alpha: Count | None = None,
    lora_dropout: ShareBelow1 = 0.05,
    dtype: Literal["float32", "bfloat16"] = "float32",
    max_tiles: Count = 12,
    take: list[Group] | None = None,
    mask_rule: MaskRule = "first",
    frames: Frames = "first",
    propagate: Propagate = "tuned",
    sam2: Path | None = None,
    decoder: DecoderVersion = "auto",
) -> Sa2va:
    """The published folder ``checkpoint`` with the trained tensors of ``file``, a ``.pth`` or a folder of PEFT's adapters.

    ``take``: further groups to take from the file, and to train, besides the four of the method, such as ``embeddings`` (token
    embeddings and output layer); without it they stay the base's, and a warning says so where the file has other values.
    ``lora_alpha``: None takes what the file says, or else upstream's 256; its own training files do not say. The last five keys are
    those of ``sa2va``.
    Raises ``UserError`` for a file that holds more than tensors, foreign keys, half a group, or another base's weights.
    """
    from plugins.models.sa2va.published.legacy import load_over

    video = Video(frames, propagate, sam2)
    return load_over(file, checkpoint, lora_alpha, lora_dropout, dtype, max_tiles, take or [], mask_rule, video, decoder)
