"""The report of an experiment: one table and one figure on test, in Markdown and in HTML, and beside them what val says."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from core.comparison.answer import ARROW
from core.comparison.good_way import good_ways
from core.comparison.meaning import meaning
from core.comparison.paired import Difference, difference
from core.comparison.runs import RunData, evaluated
from core.comparison.tables import MISSING, Table
from core.engine.evaluation import write_whole
from core.evaluation.difference import GoodWay
from core.experiments import figure
from core.experiments.block import block
from core.experiments.definition import Experiment
from core.experiments.results import Chosen, Rows, choices, commits, other_data, results_of, rows
from core.experiments.stamps import Stamps
from core.experiments.standing import Standing
from core.installed.versions import versions
from core.registry import Registry

MARK = {"better": "▲", "worse": "▼", "differs": "◆", "open": "", "": ""}
UNTRAINED = "1 (untrained)"


@dataclass
class Part:
    """One case on one group: its rows, its metrics and each row's differences to the baseline."""

    case: str
    rows: Rows
    metrics: list[str]
    good: Mapping[str, GoodWay]
    told: dict[tuple[int, str], Difference]  # (row, metric)


def parts(experiment: Experiment, group: str, standings: Sequence[Standing], chosen: Mapping[str, Sequence[Chosen]]) -> list[Part]:
    """``chosen``: of each case; empty: every variant has a row of its own."""
    cells = [one.cell for one in standings]
    results, registry = results_of(standings, experiment, group), Registry()
    good = good_ways(list(results.values()), registry)
    known = evaluated(results.values())
    metrics = [name for name in experiment.metrics if name in known] if group == "test" and experiment.metrics else known
    found = []
    for case in experiment.cases:
        shown = rows(experiment, case, results, cells, chosen.get(case, []), apart=group == "val")
        told: dict[tuple[int, str], Difference] = {}
        if shown.baseline >= 0:
            against = shown.groups[shown.baseline]
            for place, row in enumerate(shown.groups):
                for name in metrics:
                    if place != shown.baseline and (one := difference(name, row, against, shown.runs, good.get(name))):
                        told[place, name] = one
        found.append(Part(case, shown, metrics, good, told))
    return found


def table(part: Part, experiment: Experiment, group: str) -> Table:
    """A row for each variant, a column for each metric."""
    lines: list[list[str]] = []
    marks: dict[tuple[int, int], str] = {}
    for place, row in enumerate(part.rows.groups):
        members = [part.rows.runs[i] for i in row.members]
        there = len({one.folder for one in members})
        planned, untrained = part.rows.planned[place], part.rows.untrained[place]
        count = UNTRAINED if untrained and there else str(there) if there == planned and there else f"{there} of {planned}"
        cells = [row.label + (" – baseline" if place == part.rows.baseline else ""), count]
        for column, name in enumerate(part.metrics, len(cells)):
            told = part.told.get((place, name))
            cells.append(_cell(name, members, told, there))
            marks[place, column] = " ".join(filter(None, [told.verdict if told else "", "baseline" if place == part.rows.baseline else ""]))
        lines.append(cells)
    header = ["variant", "n", *(f"{name} {ARROW[part.good[name]]}" if name in part.good else name for name in part.metrics)]
    title = {"test": "On test", "val": "On val, where the choices were made"}[group] + (f": {part.case}" if part.case else "")
    return Table(title, header, lines, marks=marks)


def _cell(name: str, members: Sequence[RunData], told: Difference | None, there: int) -> str:
    values = {one.folder: one.after[name].value for one in members if name in one.after}
    if not values:
        return MISSING
    numbers = list(values.values())
    shown = f"{sum(numbers) / len(numbers):.3f}"
    shown += f" ({min(numbers):.3f}..{max(numbers):.3f})" if len(numbers) > 1 else ""
    shown += f" of {len(numbers)}" if len(numbers) < there else ""
    if told is None:
        return shown
    ends = f" [{told.value.low:+.3f}, {told.value.high:+.3f}]" if told.value.low is not None and told.value.high is not None else ""
    return f"{shown}\nΔ {told.value.value:+.3f}{ends} {MARK[told.verdict]}".rstrip()


def legend(experiment: Experiment, found: Sequence[Part]) -> list[str]:
    """How to read the table."""
    differences = [one for part in found for one in part.told.values()]
    over = ", ".join(sorted({one.over for one in differences if one.over})) or "none before two seeds are there"
    unknown = any(one.verdict == "differs" for one in differences)
    lines = [
        "Choices were made on val; this table is on test.",
        "Each cell: the mean over the seeds (smallest..largest). n: runs.",
        f"Δ: the difference to {experiment.baseline}, paired over seeds, with its 95 % interval (Student's t; {over}). "
        f"{MARK['better']} better and {MARK['worse']} worse where the interval leaves out 0"
        + (f"; {MARK['differs']} it does, and which way is good is not known." if unknown else "."),
    ]
    if (count := sum(bool(one.verdict) for one in differences)) >= 20:
        lines.append(f"Of {count} intervals about {round(count / 20)} leave out 0 by chance alone.")
    return lines + [f"{metric}: {text}" for part in found[:1] for metric in part.metrics if (text := meaning(metric))]


def choice_lines(chosen: Mapping[str, Sequence[Chosen]]) -> list[str]:
    """A sentence for each choice."""
    lines = []
    for case, found in chosen.items():
        for one in found:
            means = ", ".join(f"{name} {value:.3f}" for name, value in one.means.items())
            where = f" ({case})" if case else ""
            what = f"{one.variant} was chosen on val" if one.variant else "nothing is chosen before all val results are there"
            lines.append(f"{one.choice.name}{where}: {what} by {one.choice.by} ({means or 'no results'}); only it was evaluated on test.")
    return lines


def lacking(standings: Sequence[Standing]) -> list[str]:
    """A line for each cell that the table lacks, with what is missing."""
    return [f"{one.cell}: {one.said()}" + (f" ({one.changed})" if one.changed else "") for one in standings if not one.done]


def _begun(found: Sequence[Part]) -> Sequence[Part]:
    """The cases of which a run is done; what others lack is told in the notes. All where none is."""
    return [part for part in found if part.rows.runs] or found


def write_report(experiment: Experiment, standings: Sequence[Standing], stamps: Stamps, out: Path) -> Path:
    """``report.md``, ``report.svg``, ``report.html`` on test and ``val.md`` in ``out``; returns the first."""
    cells = [one.cell for one in standings]
    val = results_of(standings, experiment, "val")
    chosen = {case: choices(experiment, case, val, cells) for case in experiment.cases}
    test = _begun(parts(experiment, "test", standings, chosen))
    tables = [table(part, experiment, "test") for part in test]
    recipes, bases = stamps.whole(cells)
    made = ", ".join([f"dualloop {versions().get('dualloop', '')}".strip(), *(f"commit {one}" for one in commits(standings))])
    svg = figure.svg(test, experiment)
    notes = [*legend(experiment, test), *choice_lines(chosen)]
    if missing := lacking(standings):
        some = "; ".join(missing[:8]) + ("; ..." if len(missing) > 8 else "")
        notes.append(f"Incomplete, {len(missing)} of {len(standings)} runs are missing: {some}.")
    notes += [f"Wrong: {line}." for line in other_data(standings)]
    notes.append(f"Made by `{experiment.file.as_posix()}` (recipes {recipes}, base {bases}), {made}, {time.strftime('%Y-%m-%d')}.")
    about = experiment.about
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "report.svg", svg)
    inner = "\n".join([*(one.markdown() for one in tables), f"![{experiment.name}](report.svg)", "", *(line + "\n" for line in notes)])
    write_whole(out / "report.md", f"# {experiment.name}\n\n{about}\n\n" + block(experiment, recipes, bases, inner))
    write_whole(out / "report.html", _html(experiment, tables, svg, notes))
    on_val = [table(part, experiment, "val").markdown() for part in _begun(parts(experiment, "val", standings, {}))]
    write_whole(
        out / "val.md",
        "\n".join(
            [
                f"# {experiment.name}: val",
                "",
                "Choices are made here, and nothing is reported from here.",
                "",
                *on_val,
                *choice_lines(chosen),
                "",
            ]
        ),
    )
    return out / "report.md"


def _html(experiment: Experiment, tables: Sequence[Table], svg: str, notes: Sequence[str]) -> str:
    style = (files("core.comparison") / "page.css").read_text(encoding="utf-8")
    body = "".join(f"<h2>{html.escape(one.title)}</h2>{one.html()}" for one in tables)
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in notes)
    title, about = html.escape(experiment.name), html.escape(experiment.about)
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>'
    return f"{head}<body><main><h1>{title}</h1><p>{about}</p>{body}<figure>{svg}</figure>{lines}</main></body></html>\n"
