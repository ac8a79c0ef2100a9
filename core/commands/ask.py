"""``python -m core.ask SOURCE PICTURE [QUESTION ...]``: asks a model about a picture or a video.

SOURCE is a run, one of its checkpoints, a published folder, or a training file with its base. Texts go to the terminal, masks as PNG
into a folder, with a picture that shows their outlines.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.contracts import UserError
from core.installed.starting import spoken
from core.outside import Ending
from core.registry import Registry

if TYPE_CHECKING:
    from core.asking.answers import Answered

EXAMPLES = """examples:
  {ask} runs/NAME photo.jpg "Please describe the image."
  {ask} runs/NAME photo.jpg --segment "the red cup" --segment "the left hand"
  {ask} Sa2VA-4B photo.jpg --region 40,60,180,220 --region 300,80 --region mask.png
  {ask} Sa2VA-4B photo.jpg "What is region1 made of?" --region 40,60,180,220
  {ask} Sa2VA-4B clip.mp4 --segment "the dog" --every 5 --out dog
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for what the user can put right."""
    arguments = _parser().parse_intermixed_args(argv)
    with Ending() as ending:
        return _ask(arguments)
    return ending.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=spoken("ask"),
        description="Ask a model about a picture or a video.",
        epilog=EXAMPLES.format(ask=spoken("ask")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = "a run, one of its checkpoints, a published folder, or a training file .pth or folder of adapters with --base"
    parser.add_argument("source", type=Path, metavar="SOURCE", help=sources)
    parser.add_argument(
        "picture", type=Path, metavar="PICTURE", help="a picture, a video, or a folder of frames in the order of their names"
    )
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="each is asked by itself, in the words given")
    parser.add_argument(
        "--segment", action="append", default=[], metavar="PHRASE", help="the mask of what the phrase names; again for more"
    )
    regions = (
        "a box x0,y0,x1,y1, a point x,y or an outline x,y,x,y,x,y,... in pixels, or the file of a mask; without a question it is "
        "described; again for more"
    )
    parser.add_argument("--region", action="append", default=[], metavar="REGION", help=regions)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of a video only every Nth frame")
    out = "the folder for masks, which must not exist (default: answers/PICTURE, with a number where that exists)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=out)
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="of an answer, at most (default: %(default)s)")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="what the training file's or the run's training started from")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of the frozen weights (default: the component's or the run's own)"
    )
    keys = "a key of the model as a recipe has it, such as frames=uniform; again for more"
    parser.add_argument("--model", action="append", default=[], metavar="KEY=VALUE", help=keys)
    device = "auto (default): cuda where there is a GPU, else cpu; or cpu, cuda, cuda:1"
    parser.add_argument("--device", default="auto", help=device)
    upstream = "answer a question exactly as the code does that the model was published with, where training differs from it in details"
    parser.add_argument("--upstream", action="store_true", help=upstream)
    parser.add_argument("--json", action="store_true", help="print the answers as JSON")
    return parser


def _ask(arguments: argparse.Namespace) -> int:
    _check(arguments)
    import numpy as np  # late: --help stays quick

    from core.asking import answers
    from core.asking.looking import read_region, read_visual
    from core.asking.opening import device_named, open_model, placed

    visual = read_visual(arguments.picture, arguments.every)  # before gigabytes are read
    if isinstance(visual, list) and arguments.region:
        raise UserError("--region is about one picture; ask about a video without it")
    height, width, _ = visual[0].shape if isinstance(visual, list) else visual.shape
    masks = [read_region(written, height, width) for written in arguments.region]
    regions = np.stack(masks) if masks else None  # [n, H, W] bool
    device = device_named(arguments.device)
    model, read_from = open_model(arguments.source, Registry(), arguments.base, arguments.dtype, arguments.model)
    if arguments.upstream:
        answers.follow_upstream(model)
    placed(model, device)
    most, found = arguments.max_new_tokens, []
    if regions is not None and not arguments.questions and not isinstance(visual, list):
        found += answers.describe(model, visual, regions, arguments.region, most)
    found += [answers.ask(model, visual, question, regions, most) for question in arguments.questions]
    found += answers.segment(model, visual, arguments.segment, most) if arguments.segment else []
    outlined: list[Path] = []
    if any(answer.masks for answer in found) or (regions is not None and arguments.out is not None):
        folder = arguments.out or _folder(arguments.picture)
        try:
            outlined = answers.write(folder, visual, found, regions)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror or error}); choose another --out") from error
    if arguments.json:
        print(json.dumps({"model": read_from, "answers": [_plain(one) for one in found], "outlined": list(map(str, outlined))}, indent=2))
    else:
        _print(found, outlined, len(arguments.questions + arguments.segment + arguments.region) > 1)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raises ``UserError`` for what can be known before anything is read."""
    if not arguments.questions and not arguments.segment and not arguments.region:
        raise UserError('ask something: a question in quotes, --segment "the red cup", or --region x0,y0,x1,y1')
    if blank := [name for name in ("questions", "segment") if any(not text.strip() for text in getattr(arguments, name))]:
        raise UserError(f"the {'question' if blank[0] == 'questions' else 'phrase of --segment'} is empty")
    for name in ("every", "max_new_tokens"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(arguments, name)}")
    if broken := [one for one in arguments.model if "=" not in one or one.startswith("=")]:
        raise UserError(f"--model {broken[0]}: write KEY=VALUE, such as frames=uniform")
    if arguments.out is not None and arguments.out.exists():
        raise UserError(f"{arguments.out}: already exists; remove it or choose another folder")


def _folder(picture: Path) -> Path:
    name = picture.resolve().stem
    places = [Path("answers") / (name + (f"-{number}" if number else "")) for number in range(10_000)]
    return next(place for place in places if not place.exists())


def _plain(answer: Answered) -> dict[str, Any]:
    return {
        "asked": answer.asked,
        "text": answer.text,
        "shares": answer.shares,
        "files": [[str(file) for file in files] for files in answer.files],
    }


def _print(found: list[Answered], outlined: list[Path], several: bool) -> None:
    number = 0
    for answer in found:
        print((f"{answer.asked}: " if several else "") + answer.text)
        for mask, files in zip(answer.masks, answer.files, strict=True):
            number += 1
            where = str(files[0]) if len(files) == 1 else f"{files[0]} ... {files[-1].name}"
            print(f"  mask {number}: {mask.mean():.1%} of the {'picture' if mask.ndim == 2 else 'video'}  {where}")
    if outlined:
        print(f"outlined: {outlined[0]}" + (f" ... {outlined[-1].name}" if len(outlined) > 1 else ""))
