"""The tables of a comparison, as text cells; the page and the Markdown print the same ones."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.comparison.grouping import MISSING, Group, mean_interval
from core.comparison.runs import RunData, Value
from core.engine.progress import duration


@dataclass(frozen=True)
class Table:
    """``rows`` have as many cells as ``header``; ``by_run``: the columns from the second on belong to the runs, in order."""

    title: str
    header: list[str]
    rows: list[list[str]]
    about: str = ""
    by_run: bool = False

    def markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

        about = [self.about, ""] if self.about else []
        return "\n".join([f"## {self.title}", "", *about, line(self.header), "|" + "---|" * len(self.header), *map(line, self.rows), ""])

    def html(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            def cell(i: int, text: str) -> str:
                owner = f' data-run="{i - 1}"' if self.by_run and i else ""
                return f"<{tag if i else 'th'}{owner}>{_breakable(text)}</{tag if i else 'th'}>"

            return "<tr>" + "".join(cell(i, text) for i, text in enumerate(cells)) + "</tr>"

        about = f"<p>{html.escape(self.about)}</p>" if self.about else ""
        body = "".join(row(cells, "td") for cells in self.rows)
        return f'{about}<div class="scroll"><table><thead>{row(self.header, "th")}</thead><tbody>{body}</tbody></table></div>'


def _breakable(text: str) -> str:
    """Escaped, with places where a long key may be broken over two lines."""
    return re.sub(r"([./=_,@])(?=[^\W\d]{2})", r"\1<wbr>", html.escape(text))


def number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.4g}"


def _with_interval(value: Value | None) -> str:
    if value is None:
        return MISSING
    return number(value.value) + (f" [{number(value.low)}, {number(value.high)}]" if value.low is not None else "")


def runs_table(runs: Sequence[RunData], labels: Sequence[str]) -> Table:
    """One row for each run: how far it came, its losses at the end, speed, memory and time."""
    losses = list(dict.fromkeys(name for run in runs for name in run.losses() if name.count("/") == 1))
    memory = list(dict.fromkeys(name for run in runs for name in run.series if name.startswith("memory/")))
    rows = []
    for run, label in zip(runs, labels, strict=True):
        done = run.updates[-1] if run.updates else 0
        seconds = sum(value for value in run.series.get("time/update_s", []) if value is not None)
        rows.append(
            [
                label,
                run.state,
                f"{done} of {run.planned}" if run.planned else str(done),
                *(number(run.last(name)) for name in losses),
                number(run.last("time/samples_per_s")),
                *(number(max((v for v in run.series.get(name, []) if v is not None), default=None)) for name in memory),
                duration(seconds),
                run.folder.resolve().name,
                "; ".join(run.notes),
            ]
        )
    header = ["run", "state", "updates", *losses, "samples/s", *memory, "training", "folder", "notes"]
    if not any(run.notes for run in runs):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return Table("Runs", header, rows, "Losses and speed: the mean over the last tenth of the updates.")


def differences_table(varying: Mapping[str, Sequence[str]], labels: Sequence[str]) -> Table:
    return Table("What differs", ["key", *labels], [[key, *row] for key, row in varying.items()], by_run=True)


def evaluation_table(runs: Sequence[RunData], labels: Sequence[str]) -> Table | None:
    """Each metric after training, with its interval where there is one, and its change from before; None without any."""
    names = list(dict.fromkeys(name for run in runs for name in [*run.after, *run.before]))

    def cell(run: RunData, name: str) -> str:
        after, before = run.after.get(name), run.before.get(name)
        if after is None:
            return f"(before: {number(before.value)})" if before else MISSING
        counted = before is None or name.rpartition("/")[2].startswith("n_")
        return _with_interval(after) + ("" if counted or before is None else f" ({after.value - before.value:+.3g})")

    rows = [[name, *(cell(run, name) for run in runs)] for name in names]
    about = "After training; the interval in brackets where the evaluation gave one; the change from before in parentheses."
    return Table("Evaluation", ["metric", *labels], rows, about, by_run=True) if rows else None


def groups_table(runs: Sequence[RunData], groups: Sequence[Group]) -> Table | None:
    """Losses at the end and evaluations by what varies: mean and interval over the seeds; None without repeated seeds."""
    if all(len(group.members) < 2 for group in groups):
        return None
    losses = list(dict.fromkeys(name for run in runs for name in run.losses()))
    metrics = [name for name in dict.fromkeys(n for run in runs for n in run.after) if not name.rpartition("/")[2].startswith("n_")]

    def cell(group: Group, name: str) -> str:
        members = [runs[i] for i in group.members]
        found = [run.last(name) if name in losses else run.after[name].value if name in run.after else None for run in members]
        values = [value for value in found if value is not None]
        less = f" (of {len(values)})" if 0 < len(values) < len(members) else ""
        return (_with_interval(mean_interval(values)) if values else MISSING) + less

    rows = [[name, *(cell(group, name) for group in groups)] for name in [*losses, *metrics]]
    header = ["metric", *(f"{group.label} ({len(group.members)} seed{'s' * (len(group.members) > 1)})" for group in groups)]
    about = "The mean over the seeds, with its 95 % interval (Student's t) in brackets. Losses: over the last tenth of the updates."
    return Table("By what varies", header, rows, about)
