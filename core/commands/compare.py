"""``python -m core.compare RUN [RUN ...]``: runs side by side in one HTML file, from their folders alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from core.comparison.answer import answer_table
from core.comparison.good_way import good_ways
from core.comparison.grouping import differences, groups_of, run_labels
from core.comparison.heading import heading
from core.comparison.paired import find_baseline
from core.comparison.runs import RunData, find_runs, read_run
from core.comparison.tables import Table, ablation_table, differences_table, evaluation_table, groups_table, runs_table
from core.contracts import UserError
from core.installed.starting import spoken
from core.outside import Ending
from core.registry import Registry


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for what the user can put right."""
    arguments = _parser().parse_args(argv)
    with Ending() as ending:
        runs = [read_run(folder) for folder in find_runs(arguments.runs)]
        varying = differences(runs)
        labels = run_labels(runs, varying)
        found = tables(runs, labels, varying, arguments.baseline)
        if arguments.md:
            print(markdown(found, heading(runs)), end="")
            return 0
        from core.comparison.page import page  # late: plotly takes half a second

        text = page(runs, labels, groups_of(runs, varying), found, pictures=not arguments.no_pictures)
        _write(arguments.output, text)
        print(f"{arguments.output}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {len(text) / 2**20:.1f} MiB")
        return 0
    return ending.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=spoken("compare"), description="Runs side by side in one HTML file that needs no server.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder that holds some, such as a sweep's")
    parser.add_argument("-o", "--output", type=Path, default=Path("comparison.html"), metavar="FILE", help="default: %(default)s")
    baseline = (
        "what the groups are compared with: a group's name or a part of it, one of its run folders, or before (default: the first group)"
    )
    parser.add_argument("--baseline", metavar="GROUP", help=baseline)
    parser.add_argument("--md", action="store_true", help="print the tables as Markdown instead, and write no file")
    parser.add_argument("--no-pictures", action="store_true", help="leave the picture sheets out; the file is smaller")
    return parser


def tables(runs: Sequence[RunData], labels: Sequence[str], varying: dict[str, list[str]], baseline: str | None = None) -> list[Table]:
    """All tables that have content, the answer first. Raises ``UserError`` for a baseline that is no group."""
    groups = groups_of(runs, varying)
    found = [
        answer_table(runs, groups, find_baseline(baseline, runs, groups), good_ways(runs, Registry())),
        evaluation_table(runs, labels),
        ablation_table(runs, labels),
        groups_table(runs, groups),
        runs_table(runs, labels),
        differences_table(varying, labels) if varying else None,
    ]
    return [table for table in found if table is not None]


def markdown(parts: Sequence[Table], head: tuple[str, str] = ("Comparison", "")) -> str:
    title, about = head
    return "\n".join([f"# {title}", "", *([about, ""] if about else []), *(table.markdown() for table in parts)])


def _write(path: Path, text: str) -> None:
    """Writes a temporary file and renames it: ``path`` is complete or unchanged. Raises UserError if it cannot be written."""
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
