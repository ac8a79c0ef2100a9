"""``python -m plugins.models.sa2va.replace_sam2 CHECKPOINT SAM2_FILE OUT``: a checkpoint with another SAM 2 of the same size in its place.

Such as SAM 2.1 (``sam2.1_hiera_large.pt``) for SAM 2.0. Everything else is copied byte for byte. The new mask decoder has not seen a
[SEG] embedding yet: train ``text_hidden_fcs`` and ``sam2_decoder`` next.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from core.contracts import UserError
from core.outside import Ending, any_text

if TYPE_CHECKING:
    from torch import Tensor


def replace_sam2(checkpoint: Path, file: Path, out: Path) -> str:
    """Writes ``out``; returns what was done, in a sentence. Raises ``UserError``, and then there is no ``out``."""
    from plugins.models.sa2va.published.config import read_config  # late: --help stays quick
    from plugins.models.sa2va.published.memory import SAM21_ONLY
    from plugins.models.sa2va.published.sam2_file import read_sam2
    from plugins.models.sa2va.published.writing import write_folder

    config = read_config(checkpoint)
    given = read_sam2(file)
    write_folder(out, _tensors(checkpoint, file, given, set(SAM21_ONLY)), config.published, checkpoint)
    version = "SAM 2.1" if given.keys() & set(SAM21_ONLY) else "SAM 2.0"
    return (
        f"{out}: {checkpoint} with the {version} of {file.name}; its mask decoder knows no [SEG] yet: train text_hidden_fcs, sam2_decoder"
    )


def _tensors(checkpoint: Path, file: Path, given: Mapping[str, Tensor], optional: set[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of ``checkpoint``, those of SAM2 from ``given`` in the stored type; ``optional``: those that a version may lack."""
    from plugins.models.sa2va.published.folder import stored_tensors
    from plugins.models.sa2va.published.tables import GROUND

    stored = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in stored_tensors(checkpoint, lambda key: key.startswith(GROUND))}
    if odd := sorted((stored.keys() ^ given.keys()) - optional):
        raise UserError(f"{file}: another SAM 2 than {checkpoint} has place for: {len(odd)} tensors are in one only, such as {odd[0]}")
    for key in sorted(stored.keys() & given.keys()):
        if tuple(given[key].shape) != stored[key][0]:
            what = f"{key} has the shape {tuple(given[key].shape)}, not {stored[key][0]}"
            raise UserError(f"{file}: a SAM 2 of another size than that of {checkpoint}: {what}")
    for key, tensor in stored_tensors(checkpoint, lambda key: not key.startswith(GROUND)):
        yield key, tensor
    kind = next(iter(stored.values()))[1]
    for key in sorted(given):
        yield key, given[key].to(stored[key][1] if key in stored else kind)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        prog="python -m plugins.models.sa2va.replace_sam2",
        description="Write a Sa2VA checkpoint with another SAM 2 of the same size in its place, such as SAM 2.1 for SAM 2.0.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a folder in the published layout")
    parser.add_argument("file", type=Path, metavar="SAM2_FILE", help="SAM2's own file, such as sam2.1_hiera_large.pt")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; must not exist")
    arguments = parser.parse_args(argv)
    with Ending() as ending:
        print(replace_sam2(arguments.checkpoint, arguments.file, arguments.out))
        return 0
    return ending.code


if __name__ == "__main__":
    any_text()
    raise SystemExit(main())
