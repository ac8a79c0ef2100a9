"""The figure of a report, as SVG: for each metric a panel, for each variant a line with its seeds, their mean and its 95 % interval."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from core.comparison.grouping import Group, mean_interval
from core.experiments.definition import Experiment

if TYPE_CHECKING:
    from core.experiments.report import Part

ROW, PANEL, GAP, TOP, BOTTOM = 22, 210, 40, 46, 30  # pixels
LETTER, LONGEST = 8, 40  # a bold letter's width in wide fonts, in pixels; letters of a label
MOST_PANELS = 4
COLOURS = {"better": "#0072b2", "worse": "#d55e00", "differs": "#cc79a7"}  # Okabe and Ito's
PLAIN = "#555555"


def svg(parts: Sequence[Part], experiment: Experiment) -> str:
    """One picture: a block for each case, below each other."""
    metrics = parts[0].metrics[:MOST_PANELS] if parts else []
    heights = [TOP + ROW * len(part.rows.groups) + BOTTOM for part in parts]
    left = max((len(_label(row)) for part in parts for row in part.rows.groups), default=0) * LETTER + 20
    apart = max([PANEL + GAP, *(LETTER * len(name) for name in metrics)])  # a long name stands above its panel alone
    width, height = left + max(1, len(metrics)) * apart, sum(heights) + 8
    body: list[str] = []
    y = 0
    for part, high in zip(parts, heights, strict=True):
        body += _block(part, metrics, left, apart, y)
        y += high
    what = html.escape(f"{experiment.name}: the metrics of each variant on test")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12"><title>{what}</title>'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>{"".join(body)}</svg>\n'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222222"{more}>{html.escape(text)}</text>'


def _label(row: Group) -> str:
    return row.label if len(row.label) <= LONGEST else row.label[: LONGEST - 1] + "…"


def _block(part: Part, metrics: Sequence[str], left: int, apart: int, top: int) -> Iterator[str]:
    if part.case:
        yield _text(8, top + 16, part.case, more=' font-weight="bold"')
    first = top + TOP
    for place, row in enumerate(part.rows.groups):
        weight = ' font-weight="bold"' if place == part.rows.baseline else ""
        yield _text(left - 10, first + ROW * place + 15, _label(row), "end", weight)
    for number, name in enumerate(metrics):
        yield from _panel(part, name, left + number * apart, first)


def _panel(part: Part, name: str, left: int, top: int) -> Iterator[str]:
    values = [_values(part, place, name) for place in range(len(part.rows.groups))]
    every = [value for own in values for value in own]
    yield _text(left + PANEL / 2, top - 12, name, "middle")
    bottom = top + ROW * len(values)
    yield f'<rect x="{left}" y="{top}" width="{PANEL}" height="{bottom - top}" fill="none" stroke="#cccccc"/>'
    if not every:
        yield _text(left + PANEL / 2, (top + bottom) / 2, "no results yet", "middle")
        return
    ends = [mean_interval(own) for own in values if own]
    every += [end for one in ends for end in (one.low, one.high) if end is not None]
    low, high, step = axis(min(every), max(every))
    if min(value for own in values for value in own) >= 0:
        low = max(low, 0.0)  # an interval of Student's t may reach below what the metric can be

    def at(value: float) -> float:
        return left + PANEL * (min(max(value, low), high) - low) / (high - low)

    for number in range(round((high - low) / step) + 1):
        tick = low + number * step
        if tick <= high + 1e-9:
            yield f'<line x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{top}" y2="{bottom}" stroke="#eeeeee"/>'
            yield _text(at(tick), bottom + 15, f"{tick:.3g}", "middle", ' font-size="10"')
    if part.rows.baseline >= 0 and (own := values[part.rows.baseline]):
        x = at(statistics.fmean(own))
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="#888888" stroke-dasharray="4 3"/>'
    for place, own in enumerate(values):
        if own:
            told = part.told.get((place, name))
            yield from _line(own, at, top + ROW * place + ROW / 2, COLOURS.get(told.verdict if told else "", PLAIN))


def _line(own: Sequence[float], at: Callable[[float], float], y: float, colour: str) -> Iterator[str]:
    mean = mean_interval(own)
    if mean.low is not None and mean.high is not None:
        yield f'<line x1="{at(mean.low):.1f}" x2="{at(mean.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
    for value in own if len(own) > 1 else ():
        yield f'<circle cx="{at(value):.1f}" cy="{y}" r="2.5" fill="none" stroke="{colour}"/>'
    yield f'<circle cx="{at(mean.value):.1f}" cy="{y}" r="4" fill="{colour}"/>'


def _values(part: Part, place: int, name: str) -> list[float]:
    members = {part.rows.runs[i].folder: part.rows.runs[i] for i in part.rows.groups[place].members}
    return [one.after[name].value for one in members.values() if name in one.after]


def axis(low: float, high: float) -> tuple[float, float, float]:
    """Round ends around both, and the step between ticks."""
    span = max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-6)
    rough = span / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, max(last, first + 1) * step, step
