"""The tables of a comparison, as text cells; the page and the Markdown print the same ones."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from core.comparison.grouping import MISSING, Group, spread, together
from core.comparison.meaning import meaning
from core.comparison.runs import RunData, Value, ablated, of_variant
from core.engine.progress import duration

LONG = 48  # letters; a longer cell is broken over several lines


@dataclass(frozen=True)
class Table:
    """``rows`` have as many cells as ``header``. ``owner``: what the columns from the second on belong to, in
    order, or the rows: to the runs ``numbers``. ``marks``: (row, column) -> CSS classes; ``tips``: row -> what its first cell means."""

    title: str
    header: list[str]
    rows: list[list[str]]
    about: str = ""
    owner: Literal["", "run rows", "run columns", "group columns"] = ""
    numbers: Sequence[int] = ()
    below: str = ""  # lines under the table: how to read it
    marks: Mapping[tuple[int, int], str] = field(default_factory=dict)
    tips: Mapping[int, str] = field(default_factory=dict)

    def markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

        about, below = ([line for part in text.splitlines() for line in (part, "")] for text in (self.about, self.below))
        return "\n".join(
            [f"## {self.title}", "", *about, line(self.header), "|" + "---|" * len(self.header), *map(line, self.rows), "", *below]
        )

    def html(self) -> str:
        what, _, where = self.owner.partition(" ")

        def row(cells: Sequence[str], tag: str, number: int | None = None) -> str:
            def cell(i: int, text: str) -> str:
                owner = f' data-{what}="{i - 1}"' if where == "columns" and i else ""
                body = number is not None
                long = bool(i) and body and max(map(len, text.split("\n"))) > LONG
                classes = " ".join(filter(None, ["long" if long else "", self.marks.get((number, i), "") if number is not None else ""]))
                classed = f' class="{classes}"' if classes else ""
                tip = html.escape(self.tips.get(number, "")) if number is not None and not i else ""
                shown = _breakable(text) if long or tag == "th" or not i else html.escape(text)
                shown = f'<span class="tip" title="{tip}" tabindex="0">{shown}</span>' if tip else shown
                return f"<{tag if i else 'th'}{owner}{classed}>{shown}</{tag if i else 'th'}>"

            owner = f' data-{what}="{self.numbers[number]}"' if where == "rows" and number is not None else ""
            return f"<tr{owner}>" + "".join(cell(i, text) for i, text in enumerate(cells)) + "</tr>"

        about, below = ("".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines()) for text in (self.about, self.below))
        body = "".join(row(cells, "td", number) for number, cells in enumerate(self.rows))
        return f'{about}<div class="scroll"><table><thead>{row(self.header, "th")}</thead><tbody>{body}</tbody></table></div>{below}'


def _breakable(text: str) -> str:
    """Escaped, with places where a long key may be broken over two lines."""
    return re.sub(r"([./=_,@])(?=[^\W\d]{2})", r"\1<wbr>", html.escape(text))


def number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.4g}"


def with_interval(value: Value | None) -> str:
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
    return Table("Runs", header, rows, "Losses and speed: the mean over the last tenth of the updates.", "run rows", range(len(runs)))


def differences_table(varying: Mapping[str, Sequence[str]], labels: Sequence[str]) -> Table:
    return Table("What differs", ["key", *labels], [[key, *row] for key, row in together(varying).items()], owner="run columns")


def evaluation_table(runs: Sequence[RunData], labels: Sequence[str]) -> Table | None:
    """Each metric after training, with its interval where there is one, and its change from before; None without any."""
    measured = dict.fromkeys(name for run in runs for name in [*run.after, *run.before])
    names = [name for name in measured if ":" not in name.rpartition("/")[0]]

    def cell(run: RunData, name: str) -> str:
        after, before = run.after.get(name), run.before.get(name)
        if after is None:
            return f"(before: {number(before.value)})" if before else MISSING
        counted = before is None or name.rpartition("/")[2].startswith("n_")
        return with_interval(after) + ("" if counted or before is None else f" ({after.value - before.value:+.3g})")

    rows = [[name, *(cell(run, name) for run in runs)] for name in names]
    about = "After training; the interval in brackets where the evaluation gave one; the change from before in parentheses."
    return Table("Evaluation", ["metric", *labels], rows, about, "run columns") if rows else None


def ablation_table(runs: Sequence[RunData], labels: Sequence[str]) -> Table | None:
    """A row for each metric of each run that was measured in variants, a column for each variant; None without any."""
    metrics = ablated(runs)
    variants = list(dict.fromkeys(variant for found in metrics.values() for variant in found))

    def cell(value: Value | None) -> str:
        if value is None or value.to_full is None:
            return with_interval(value)
        low, high = value.to_full.low, value.to_full.high
        return f"{number(value.value)} ({value.to_full.value:+.3g}" + (f" [{low:+.3g}, {high:+.3g}])" if low is not None else ")")

    found = {
        (name, i): [run.after.get(of_variant(name, variant)) for variant in variants]
        for name in metrics
        for i, run in enumerate(runs)
        if any(of_variant(name, variant) in run.after for variant in variants[1:])
    }
    rows = [[labels[i], name, *map(cell, values)] for (name, i), values in found.items()]
    about = (
        "The base with the trained values of the named groups only. In brackets the interval; in parentheses the difference to full, "
        "with its own interval from the same draws."
    )
    return Table("Ablation", ["run", "metric", *variants], rows, about, "run rows", [i for _, i in found]) if rows else None


def groups_table(runs: Sequence[RunData], groups: Sequence[Group]) -> Table | None:
    """Losses at the end by what varies: mean and interval over the seeds; None without repeated seeds."""
    if all(len(group.members) < 2 for group in groups):
        return None
    losses = list(dict.fromkeys(name for run in runs for name in run.losses()))

    def cell(group: Group, name: str) -> str:
        members = [runs[i] for i in group.members]
        values = [value for run in members if (value := run.last(name)) is not None]
        less = f" (of {len(values)})" if 0 < len(values) < len(members) else ""
        return (with_interval(spread(values)) if values else MISSING) + less

    rows = [[name, *(cell(group, name) for group in groups)] for name in losses]
    header = ["metric", *(f"{group.label} ({len(group.members)} seed{'s' * (len(group.members) > 1)})" for group in groups)]
    about = "Over the last tenth of the updates; the mean over the seeds, in brackets its 95 % interval (Student's t); of two seeds both."
    tips = {place: text for place, name in enumerate(losses) if (text := meaning(name))}
    return Table("Losses by what varies", header, rows, about, "group columns", tips=tips) if rows else None
