"""One HTML file that needs nothing else: tables, curves drawn by plotly.js, picture sheets."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image
from plotly.offline import get_plotlyjs

from core.comparison.answer import TITLE
from core.comparison.grouping import Group, t95
from core.comparison.heading import heading
from core.comparison.meaning import meaning
from core.comparison.runs import SAMPLES, RunData, ablated, evaluated, of_variant
from core.comparison.tables import Table

#: Points drawn of one curve, and of all runs' curves in one chart; longer runs are averaged over neighbouring updates.
MOST_POINTS, MOST_TOGETHER = 2000, 20_000

# Okabe and Ito's colours, which colour-blind readers can tell apart; then darker ones of them
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#004d7a", "#8f3f00", "#00634a", "#86406a", "#444444")

#: What answers comes first, then what explains it.
ORDER = (
    *(TITLE, "Evaluation", "Ablation", "Evaluation during training", "Losses", "Losses by what varies", "Gradients"),
    *("Runs", "What differs"),
)
WITH_POINTS = ("Evaluation", "Ablation")
NOT_EVALUATED = "No evaluation was found: train.evaluate in a recipe makes one before and after training, core.evaluate one of any run."

NOTHING: list[float | None] = [None, None, None]


def page(runs: Sequence[RunData], labels: Sequence[str], groups: Sequence[Group], tables: Sequence[Table], pictures: bool = True) -> str:
    """The whole document. The smoothing, the clock and the choice of runs are made in the browser."""
    sections = list(_charts(runs))
    known = {table.title: table for table in tables}
    folded = {title: away for title, away, _ in sections}
    body = []
    for title in dict.fromkeys([*ORDER, *folded]):  # a section has charts, a table, or both
        charts = title in folded or title in WITH_POINTS
        if title in known or title in folded:
            place = f'<div class="charts" data-section="{html.escape(title)}"></div>' if charts else ""
            body.append(_part(title, place + (known[title].html() if title in known else ""), folded.get(title, False)))
    if TITLE not in known:
        body.insert(0, f"<p>{NOT_EVALUATED}</p>")
    if pictures and any(run.sheets for run in runs):
        body.append(_part("Pictures", _pictures(runs, labels)))
    data = {
        "runs": [
            {"label": label, "colour": COLOURS[i % len(COLOURS)], **_clocks(run, _bin(runs))}
            for i, (run, label) in enumerate(zip(runs, labels, strict=True))
        ],
        "groups": [{"label": g.label, "colour": _colour(i), "members": g.members} for i, g in enumerate(groups)],
        "t": [0, 0] + [t95(n) for n in range(2, len(runs) + 1)],
        "charts": [chart for _, _, charts in sections for chart in charts],
        "points": [*_points(runs), *_variants(runs)],
    }
    title, about = heading(runs)
    here = files("core.comparison")
    filled = (here / "page.html").read_text(encoding="utf-8")
    parts = {
        "style": (here / "page.css").read_text(encoding="utf-8"),
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "body": "\n".join(body),
        "title": html.escape(title),
        "heading": f"<h1>{html.escape(title)}</h1><p>{html.escape(about)}</p>",
        "script": (here / "page.js").read_text(encoding="utf-8"),
        "plotly": get_plotlyjs(),
    }
    for name, text in parts.items():  # plotly comes last: nothing is looked for inside it
        filled = filled.replace(f"<!--{name}-->", text, 1)
    return filled


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _part(title: str, inner: str, folded: bool = False) -> str:
    return f"<details{'' if folded else ' open'}><summary><h2>{html.escape(title)}</h2></summary>{inner}</details>"


def _charts(runs: Sequence[RunData]) -> Iterator[tuple[str, bool, list[dict[str, Any]]]]:
    """(section, folded, charts) for every metric of any run."""
    names = list(dict.fromkeys(name for run in runs for name in run.series))
    losses = list(dict.fromkeys(name for run in runs for name in run.losses()))
    surgery = [name for name in names if name.startswith("surgery/")]
    groups = {name.split("/")[3] for name in surgery if name.startswith("surgery/cosine/") and name.count("/") == 3}
    by_group = [name for name in surgery if name.rpartition("/")[2] in groups]
    whole = sorted((name for name in surgery if name not in by_group), key=lambda name: not name.startswith("surgery/cosine/"))
    speed = [name for name in names if name.startswith(("time/samples_per_s", "memory/"))]
    during = [name for name in names if name.startswith("evaluation/")]
    rest = [name for name in names if name not in (*losses, *surgery, *speed, *during)]
    conflict = []
    for name in whole:
        if name.startswith("surgery/cosine/"):
            below = [[None if v is None else float(v < 0) for v in run.series[name]] if name in run.series else None for run in runs]
            title = f"share of updates in conflict: {name.rpartition('/')[2]}"
            conflict.append(_chart(runs, title, "Gradients", below) | {"range": [-0.02, 1.02], "least": 0.95})
    yield "Evaluation during training", False, [_chart(runs, name, "Evaluation during training") for name in during if not _counts(name)]
    yield "Losses", False, [_chart(runs, name, "Losses") for name in losses]
    yield "Gradients", False, conflict + [_chart(runs, name, "Gradients") for name in whole]
    yield "Speed and memory", False, [_chart(runs, name, "Speed and memory") for name in speed]
    yield "Gradients by parameter group", True, [_chart(runs, name, "Gradients by parameter group") for name in by_group]
    yield "More metrics", True, [_chart(runs, name, "More metrics") for name in rest]


def _counts(name: str) -> bool:
    return name.rpartition("/")[2].startswith("n_")


def _chart(runs: Sequence[RunData], title: str, section: str, y: list[list[float | None] | None] | None = None) -> dict[str, Any]:
    series = [run.series.get(title) for run in runs] if y is None else y
    size = _bin(runs)
    shown = [None if one is None else [_short(v) for v in _thin(one, size)] for one in series]
    return {"title": title, "about": meaning(title), "section": section, "y": shown}


def _clocks(run: RunData, size: int) -> dict[str, list[float | None]]:
    """The x axes: update, samples seen and hours of training, without the time of evaluations and breaks."""
    seconds = [value or 0.0 for value in run.series.get("time/update_s", [0.0] * len(run.updates))]
    speeds = [value or 0.0 for value in run.series.get("time/samples_per_s", [0.0] * len(run.updates))]
    samples = accumulate(round(rate * second) for rate, second in zip(speeds, seconds, strict=True))
    hours = [total / 3600 for total in accumulate(seconds)]
    last = [min(start + size, len(run.updates)) - 1 for start in range(0, len(run.updates), size)]
    every = list(samples)
    return {
        "update": [run.updates[i] for i in last],
        "samples": [every[i] for i in last],
        "hours": [_short(hours[i]) for i in last],
    }


def _bin(runs: Sequence[RunData]) -> int:
    """How many neighbouring updates make one point: as many in all runs, so that means over seeds find them at equal updates."""
    longest = max((len(run.updates) for run in runs), default=0)
    return max(1, -(-longest // min(MOST_POINTS, max(200, MOST_TOGETHER // len(runs)))))


def _thin(values: Sequence[float | None], size: int) -> list[float | None]:
    """The mean of each bin of neighbouring updates."""
    if size == 1:
        return list(values)
    bins = ([v for v in values[start : start + size] if v is not None] for start in range(0, len(values), size))
    return [sum(inside) / len(inside) if inside else None for inside in bins]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _points(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """For each evaluator its metrics with value, interval and the value before; counts are left to the table.

    A metric outside 0..1 has its own chart: it would flatten the others.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in evaluated(runs):
        evaluator, _, metric = name.rpartition("/")
        values = [v for run in runs for v in (run.before.get(name), run.after.get(name)) if v is not None]
        title = evaluator if all(0 <= v.value <= 1 for v in values) else name
        chart = found.setdefault(title, {"title": title, "section": "Evaluation", "metrics": [], "values": [[] for _ in runs]})
        chart["metrics"].append(metric)
        for run, values in zip(runs, chart["values"], strict=True):
            values.append([*_point(run, name), before.value if (before := run.before.get(name)) else None])
    return sorted(found.values(), key=lambda chart: len(chart["metrics"]) == 1)  # wide ones first


def _point(run: RunData, name: str) -> list[float | None]:
    """A metric after training with the ends of its interval."""
    value = run.after.get(name)
    return NOTHING if value is None else [value.value, value.low, value.high]


def _variants(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """A chart for each metric that an ablation measured: its variants side by side."""
    having = {i for i, run in enumerate(runs) if ablated([run])}  # what another run measured is no variant ``full`` of the same samples
    return [
        {
            "title": name,
            "section": "Ablation",
            "metrics": [variant.replace("+", " +<br>") for variant in variants],
            "values": [
                [[*(_point(run, of_variant(name, variant)) if i in having else NOTHING), None] for variant in variants]
                for i, run in enumerate(runs)
            ],
        }
        for name, variants in ablated(runs).items()
    ]


def _source(path: Path) -> str:
    """An ``img``'s size and source, as WebP: a tenth of the PNG's bytes, with readable masks and text. Unchanged if that fails."""
    small = io.BytesIO()
    try:
        with Image.open(path) as image:
            size = f'width="{image.width}" height="{image.height}" '
            image.convert("RGB").save(small, format="WEBP", quality=80)
        kind, data = "webp", small.getvalue()
    except (OSError, ValueError):  # cut short by a full disk: the browser shows what there is; or higher than WebP's 16383 pixels
        size, kind, data = "", "png", path.read_bytes()
    return f'{size}src="data:image/{kind};base64,{base64.b64encode(data).decode()}"'


def _equal(sheets: Sequence[Path]) -> bool:
    """Whether all files are alike: before training runs of one base show the same."""
    first = sheets[0].read_bytes()
    return all(sheet.stat().st_size == len(first) and sheet.read_bytes() == first for sheet in sheets[1:])


def _pictures(runs: Sequence[RunData], labels: Sequence[str]) -> str:
    """One row for each sheet's name, the runs side by side; samples that are not the newest of any run come folded, after the others."""
    rows, earlier = ["<p>A click shows a row in full size, another fits it again.</p>"], list[str]()
    newest = {next((name for name in run.sheets if name.startswith(SAMPLES)), "") for run in runs}
    names = dict.fromkeys(sheet for run in runs for sheet in run.sheets)
    old = sorted(
        (name for name in names if name.startswith(SAMPLES) and name not in newest), key=lambda name: -int(name.rpartition(" ")[2])
    )
    for name in [*(name for name in names if name not in old), *old]:
        shown = []
        for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
            if name in run.sheets:
                picture = f'<img loading="lazy" alt="{html.escape(f"{label}: {name}")}" {_source(run.sheets[name])}>'
                shown.append(f'<figure data-run="{i}"><figcaption>{html.escape(label)}</figcaption>{picture}</figure>')
        if len(runs) > 1 and len(shown) == len(runs) and _equal([run.sheets[name] for run in runs]):
            picture = f'<img loading="lazy" alt="{html.escape(name)}" {_source(runs[0].sheets[name])}>'
            shown = [f"<figure><figcaption>the same in all runs</figcaption>{picture}</figure>"]
        (earlier if name in old else rows).append(f'<h3>{html.escape(name)}</h3><div class="scroll sheets">{"".join(shown)}</div>')
    if earlier:
        rows.append(f"<details><summary>Samples of {len(earlier)} earlier updates</summary>{''.join(earlier)}</details>")
    return "".join(rows)
