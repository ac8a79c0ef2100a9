"""``python -m core.demo SOURCE``: a page on this machine where a model is asked, before and after training side by side.

SOURCE is what ``core.ask`` takes. A click or a drawn region gives a description, a phrase its mask, a question its answer.
"""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import signal
import tempfile
import threading
from pathlib import Path
from types import FrameType

from core.contracts import UserError
from core.installed.starting import spoken
from core.outside import Ending
from core.registry import Registry

EXAMPLES = """examples:
  {demo} runs/NAME                                     before and after training
  {demo} runs/NAME/checkpoints/best --example cat.jpg
  {demo} Sa2VA-4B --beside runs/NAME/export            two models
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command until it is stopped; returns its exit code: 2 for what the user can put right."""
    arguments = _parser().parse_args(argv)
    with Ending() as ending:
        return _demo(arguments)
    return ending.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=spoken("demo"),
        description="Show a page on this machine where a model is asked about pictures and videos.",
        epilog=EXAMPLES.format(demo=spoken("demo")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = (
        "a run or one of its checkpoints, or a training file or folder of adapters with --base: before and after training; or a published "
        "folder"
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help=sources)
    beside = "another model to ask the same, on the left: what SOURCE may be; instead of SOURCE before training"
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help=beside)
    example = "a picture or video to begin with; again for more (default: some that the run is evaluated on)"
    parser.add_argument("--example", type=Path, action="append", default=[], metavar="FILE", help=example)
    host = "where it listens (default: %(default)s, this machine alone); with 0.0.0.0 everybody who reaches this machine can use it"
    parser.add_argument("--host", default="127.0.0.1", help=host)
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 7860 on")
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="of an answer, at most (default: %(default)s)")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="what the training file's or the run's training started from")
    dtype = "of the frozen weights (default: the component's or the run's own)"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help=dtype)
    device = "auto (default): cuda where there is a GPU, else cpu; or cpu, cuda, cuda:1"
    parser.add_argument("--device", default="auto", help=device)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    _check(arguments)
    from core.asking.demo_page import build_page, quiet, serve  # late: --help stays quick
    from core.asking.opening import device_named, open_sides, placed

    registry, device = Registry(), device_named(arguments.device)
    sides = open_sides(arguments.source, registry, arguments.base, arguments.dtype, arguments.beside)
    for side in sides:
        placed(side.model, device)
    with tempfile.TemporaryDirectory(prefix="dualloop-demo-") as kept:
        quiet(Path(kept))  # what is uploaded goes with the folder
        page = build_page(sides, f"dualloop: {arguments.source}", _examples(arguments, registry, Path(kept)), arguments.max_new_tokens)
        address = serve(page, arguments.host, arguments.port)
        try:
            print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
            if not _loopback(arguments.host):
                print("warning: everybody who can reach this address can use the model and this machine's memory", flush=True)
            _until_stopped()
        finally:
            page.close(verbose=False)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raises ``UserError`` for what can be known before anything is read."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the demo needs gradio: pip install 'dualloop[demo]'")
    if arguments.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens must be at least 1, not {arguments.max_new_tokens}")
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        raise UserError(f"--port must be in 1..65535, not {arguments.port}")
    if gone := [file for file in arguments.example if not file.is_file()]:
        raise UserError(f"--example {gone[0]}: not found")


def _examples(arguments: argparse.Namespace, registry: Registry, folder: Path) -> list[Path]:
    from core.asking.examples import examples_of
    from core.checkpoints.trained_weights import is_run
    from core.engine.best import named_best
    from core.installed.home import home

    source = named_best(home(arguments.source))
    if arguments.example or not is_run(source):
        return list(arguments.example)
    found, why = examples_of(source, registry, folder)
    if why:
        print(f"no example pictures ({why}); --example FILE gives some", flush=True)
    return found


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _until_stopped() -> None:
    """Waits for Ctrl-C or SIGTERM."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stopped.wait(1.0):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
