"""``python -m core.evaluate SOURCE [key=value ...]``: measures a model and writes a result card.

SOURCE is a run, one of its checkpoints, a published folder, a training file ``.pth`` or a recipe. What it writes does not
depend on the number of processes, and the same command goes on where an interrupted one ended.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from core.engine.launch import become_worker, device_notes, device_of, print_notes, report_error, start_workers, to_start
from core.installed.starting import spoken
from core.outside import Ending
from core.registry import Registry

WHAT_REMAINS = "finished measurements are kept, the same command continues from them"
WAIT_S = 7 * 24 * 3600  # for the slowest process: shares of one evaluation may take hours longer than others

EXAMPLES = """\
key=value: with dots a key of the recipe (evaluate.NAME.data.split=testA, model.dtype=bfloat16); without dots a parameter of the
evaluators, else of their data sets (max_samples=100, max_texts_per_image=1, max_new_tokens=512, split=testA).
ablate=true measures the five variants full, lora, sam2_decoder+text_hidden_fcs, lora+sam2_decoder+text_hidden_fcs and projector
of a run: base weights, with the trained weights of these groups. python -m core.components explain evaluators/refcoco says more.

examples:
  python -m core.evaluate runs/NAME ablate=true
  python -m core.evaluate runs/NAME --weights teacher
  python -m core.evaluate runs/NAME/checkpoints/update-000500 --track
  python -m core.evaluate runs/NAME/checkpoints/update-001000 --use refcoco --data refcoco root=DATA/ref_seg dataset=refcocog \\
      split_by=umd split=test text=sent
  python -m core.evaluate Sa2VA-1B --use refcoco --data refcoco root=DATA/ref_seg split=val text=sent max_samples=100 \\
      max_texts_per_image=1 --processes 8 --device cuda
  python -m core.evaluate Sa2VA-1B --use region_caption --data dam.lvis root=DATA/dam
  python -m core.evaluate Sa2VA-1B --use closure --data dam.lvis root=DATA/dam max_samples=200
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for what the user can put right."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    if arguments.processes < 1 or arguments.max_bad < 0:
        parser.error("--processes must be at least 1 and --max-bad not negative")
    become_worker()
    with Ending(WHAT_REMAINS, report_error) as ending:
        return _evaluate(arguments, argv)
    return ending.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=spoken("evaluate"),
        description="Measure a model and write a result card.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = "a run, one of its checkpoints, a published folder, a training file .pth or folder of adapters, or a recipe .yaml"
    parser.add_argument("source", type=Path, metavar="SOURCE", help=sources)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings, see below")
    parser.add_argument("--use", metavar="EVALUATOR", help="this evaluator instead of those of the recipe, e.g. refcoco")
    parser.add_argument("--data", metavar="DATASET", help="the data set for --use, e.g. refcoco or dam.lvis")
    groups = "trained groups to take, joined by +, the others are the base's; full (default), or base for none"
    parser.add_argument("--groups", default="full", metavar="GROUPS", help=groups)
    weights = "of a run: what was trained (default), or the teacher's slow weights, e.g. an average"
    parser.add_argument("--weights", choices=("trained", "teacher"), default="trained", help=weights)
    parser.add_argument(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="the folder training started from: for a training file or adapters; of a run, where it was moved",
    )
    out = "where to write (default: RUN/evaluation/CHECKPOINT, with -teacher for its weights; otherwise evaluations/NAME)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=out)
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier evaluation wrote there")
    track = "of a run: send the results to its trackers too (W&B, TensorBoard), at the checkpoint's update"
    parser.add_argument("--track", action="store_true", help=track)
    parser.add_argument("--max-bad", type=int, default=0, metavar="N", help="samples that may be left out as unusable (default 0: stop)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that share the pictures; on GPUs one each")
    device = "auto (default): cuda where there is a GPU, else cpu"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=device)
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    return parser


def _evaluate(arguments: argparse.Namespace, argv: list[str]) -> int:
    from core.evaluation.source import read_job

    registry = Registry()
    given = arguments
    job, faults = read_job(given.source, given.use, given.data, given.base, given.settings, registry, given.weights, given.groups)
    if faults:
        for fault in faults:
            print(fault, file=sys.stderr)
        return 2
    print_notes(job.recipe.notes)
    processes = int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else arguments.processes  # torchrun and SLURM say how many
    launch = {
        "strategy": "ddp" if processes > 1 else "single",
        "processes": processes,
        "device": arguments.device,
        "timeout_s": WAIT_S,
        "requeue": False,
    }
    print_notes(device_notes(launch))
    if to_start(launch):
        return start_workers(launch, argv, "core.evaluate", WHAT_REMAINS)
    from core.engine.parallel.exchange import join  # late: it imports torch
    from core.evaluation.measure import Options, run

    device, out = device_of(launch), arguments.out or job.out
    options = Options(out, arguments.groups, arguments.max_bad, arguments.overwrite, device, arguments.quiet, arguments.track)
    return run(job, registry, options, join(launch, WHAT_REMAINS))
