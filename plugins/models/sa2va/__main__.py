"""``python -m plugins.models.sa2va CHECKPOINT PICTURE QUESTION``: asks a checkpoint about a picture or a video."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Literal

from core.contracts import UserError


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for what the user can put right."""
    parser = argparse.ArgumentParser(prog="python -m plugins.models.sa2va", description="Ask a checkpoint about a picture or a video.")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a folder in the published layout")
    parser.add_argument(
        "picture", type=Path, metavar="PICTURE", help="a picture, a folder of frames (in the order of their names), or a video"
    )
    parser.add_argument("question", metavar="QUESTION", help='such as "Please segment the red cup in this image."')
    parser.add_argument("--region", type=Path, action="append", metavar="MASK", help="a mask as a picture: region1, then region2, ...")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the masks there as PNG; must not exist")
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="auto", help="auto (default): cuda where there is a GPU, else cpu; or cpu, cuda, cuda:1")
    parser.add_argument("--upstream", action="store_true", help="upstream's inference exactly: its newlines and its rounded SAM2 constants")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args(argv)
    try:
        return _ask(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _ask(arguments: argparse.Namespace) -> int:
    import numpy as np  # late: --help stays quick
    import torch

    from plugins.models.sa2va.components import load
    from plugins.models.sa2va.pictures import read_picture, read_visual

    if arguments.out is not None and arguments.out.exists():
        raise UserError(f"{arguments.out}: already exists; remove it or choose another folder")
    visual = read_visual(arguments.picture)  # before gigabytes are read
    height, width, _ = visual[0].shape if isinstance(visual, list) else visual.shape
    regions = [read_picture(file).any(axis=2) for file in arguments.region or []]
    for file, region in zip(arguments.region or [], regions, strict=True):
        if region.shape != (height, width):
            raise UserError(f"{file}: {region.shape[1]} x {region.shape[0]} pixels; the picture has {width} x {height}")
    constants: Literal["exact", "bfloat16"] = "bfloat16" if arguments.upstream else "exact"
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = automatic if arguments.device == "auto" else arguments.device
    model = load(checkpoint=arguments.checkpoint, dtype=arguments.dtype, sam_constants=constants).to(device).eval()
    answer = model.predict(
        visual,
        arguments.question,
        np.stack(regions) if regions else None,
        max_new_tokens=arguments.max_new_tokens,
        newlines=2 if arguments.upstream else 1,
    )
    try:
        files = [] if arguments.out is None else _write(arguments.out, answer.masks)
    except OSError as error:
        raise UserError(f"{arguments.out}: cannot be written ({error}); choose another folder") from error
    if arguments.json:
        shares = [[float(frame.mean()) for frame in (mask if mask.ndim == 3 else mask[None])] for mask in answer.masks]
        print(json.dumps({"text": answer.text, "shares": shares, "files": [str(file) for file in files]}, indent=2))
    else:
        print(answer.text)
        for number, mask in enumerate(answer.masks, 1):
            print(f"mask {number}: {mask.mean():.1%} of the {'picture' if mask.ndim == 2 else 'video'}")
    return 0


def _write(folder: Path, masks: list[Any]) -> list[Path]:
    from PIL import Image

    folder.mkdir(parents=True)
    files = []
    for number, mask in enumerate(masks, 1):
        for frame, pixels in enumerate(mask if mask.ndim == 3 else mask[None]):
            name = f"mask{number}.png" if mask.ndim == 2 else f"mask{number}-frame{frame:05d}.png"
            Image.fromarray(pixels).save(folder / name)
            files.append(folder / name)
    return files


if __name__ == "__main__":
    raise SystemExit(main())
