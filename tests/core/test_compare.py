"""Comparison from run folders alone; the page is looked at with a real browser where there is one."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.commands import compare
from core.comparison.grouping import differences, groups_of, mean_interval, run_labels, t95
from core.comparison.page import MOST_POINTS, page
from core.comparison.runs import find_runs, read_run

RECIPE = {
    "name": "tiny",
    "seed": 1,
    "loops": {"loop1": {"tasks": {"pseudo": {"losses": {"mask": {"use": "bce_dice"}}}}}, "loop2": {"tasks": {}}},
    "gradient": {"use": "pcgrad_orthogonal", "anchor": "loop1"},
    "optimizer": {"use": "adamw", "lr": 1e-4},
    "train": {"updates": 20},
    "output": "runs",
}


def write_run(folder: Path, updates: int = 20, finished: bool = True, shift: float = 0.0, **changes: object) -> Path:
    """A run folder as `core.run` leaves it."""
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(RECIPE | changes))
    with (folder / "metrics.jsonl").open("w") as stream:
        for update in range(1, updates + 1):
            row = {
                "update": update,
                "time": 1e9 + update,
                "loop1/loss": 1 / update + shift,
                "loop1/pseudo/mask": 0.5,
                "loop2/loss": 0.3 + shift,
            }
            row |= {"surgery/cosine/loop1_loop2": math.sin(update), "surgery/cosine/loop1_loop2/lora": 0.1, "surgery/norm/loop1": 2.0}
            row |= {"time/update_s": 2.0, "time/samples_per_s": 8.0, "memory/peak_gib": 1.5, "optimizer/lr": None}
            stream.write(json.dumps(row) + "\n")
    (folder / "before.json").write_text('{"referring": {"cIoU": 0.5, "n_bad": 0}}')
    if finished:
        after = {"referring": {"cIoU": {"value": 0.6 + shift, "interval": [0.55, 0.65]}, "n_bad": 1}}
        (folder / "result.json").write_text(json.dumps({"before": {}, "after": after}))
        Image.new("RGB", (300, 200), "teal").save(folder / "pictures_after.png")
    return folder


def test_what_lies_at_a_path_counts_and_not_where_it_lies(tmp_path):
    def run(name: str, place: str, weights: str | None) -> Path:
        folder = write_run(tmp_path / name, model={"use": "sa2va", "checkpoint": place})
        if weights:
            record = {
                "paths": {"model.checkpoint": [place, place]},
                "contents": {"model.checkpoint": {"w": {"sha256": weights}}},
                "sources": {},
            }
            (folder / "made_of.json").write_text(json.dumps(record))
        return folder

    def varying(*folders: Path) -> dict[str, list[str]]:
        return differences([read_run(folder) for folder in folders])

    one, moved, other, older = run("a", "base", "1"), run("b", "/new/base", "1"), run("c", "base", "2"), run("d", "/new/base", None)
    assert varying(one, moved) == {}
    assert list(varying(one, other)) == ["model.checkpoint (contents)"]
    assert varying(one, older) == {"model.checkpoint": ["base", "/new/base"]}


@pytest.fixture
def seeds(tmp_path):
    """Two gradient ops, two seeds each."""
    for op in ("sum", "pcgrad_orthogonal"):
        for seed in (1, 2):
            gradient = {"use": op} | ({"anchor": "loop1"} if op != "sum" else {})
            write_run(tmp_path / "sweep" / f"tiny-{op}-{seed}", shift=seed / 100, seed=seed, gradient=gradient)
    return tmp_path / "sweep"


def test_a_run_is_read_with_its_evaluations(tmp_path):
    run = read_run(write_run(tmp_path / "a"))
    assert (run.state, run.planned, run.updates[-1]) == ("finished", 20, 20)
    assert run.losses() == ["loop1/loss", "loop2/loss", "loop1/pseudo/mask"]
    assert run.last("loop1/loss") == pytest.approx((1 / 19 + 1 / 20) / 2)
    assert "optimizer/lr" not in run.series  # never a number
    value = run.after["referring/cIoU"]
    assert (value.value, value.low, value.high) == (0.6, 0.55, 0.65)
    assert (run.before["referring/cIoU"].value, run.before["referring/cIoU"].low) == (0.5, None)


def test_runs_that_crashed_or_still_run(tmp_path):
    folder = write_run(tmp_path / "a", updates=7, finished=False)
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('damaged\n{"update": 8, "loop1/loss": 3.0}\n{"update": 9, "loop1/lo')  # cut off in the middle of a write
    run = read_run(folder)
    assert (run.state, run.updates, run.series["loop1/loss"][-1]) == ("running", list(range(1, 9)), 3.0)
    assert run.series["loop2/loss"][-1] is None
    assert run.notes == ["1 damaged line in metrics.jsonl left out"]
    assert read_run(folder, now=time.time() + 3600).state == "stopped"
    (folder / "not_finite.json").write_text('{"what": "the loss of update 8"}')
    assert "the loss of update 8 was not finite" in read_run(folder).notes

    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "recipe.json").write_text(json.dumps(RECIPE))
    assert read_run(empty).notes == ["no metrics.jsonl yet"]
    assert compare.main([str(folder), str(empty), "-o", str(tmp_path / "out.html")]) == 0


def write_card(run: Path, update: int, cIoU: float, expressions: int, **variants: float) -> None:
    """A result card as `core.evaluate` leaves it; ``variants``: the cIoU of each."""
    folder = run / "evaluation" / f"update-{update:06d}" / "referring"
    folder.mkdir(parents=True)
    interval = {"interval": [cIoU - 0.1, cIoU + 0.1]}
    results = {"referring": {"cIoU": {"value": cIoU} | interval, "n_bad": {"value": expressions}}}
    for variant, value in variants.items():
        to_full = {"value": value - cIoU, "interval": [-0.02, 0.01]}
        results[f"referring:{variant}"] = {"cIoU": {"value": value, "to_full": to_full} | interval, "n_bad": {"value": expressions}}
    (folder / "card.json").write_text(json.dumps({"checkpoint": {"update": update}, "results": results}))
    (folder / "protocol.json").write_text('{"results": "none"}')


def test_cards_of_the_last_update_count_and_earlier_ones_are_named_so(tmp_path):
    folder = write_run(tmp_path / "a")
    write_card(folder, 10, 0.4, expressions=0)
    write_card(folder, 20, 0.7, expressions=0)
    run = read_run(folder)
    assert (run.after["referring/cIoU"].value, run.after["referring@10/cIoU"].value) == (0.7, 0.4)
    assert run.before["referring/cIoU"].value == 0.5  # measured on as many samples
    other = write_run(tmp_path / "b")
    write_card(other, 20, 0.7, expressions=7)
    run = read_run(other)
    assert run.after["referring/cIoU"].value == 0.7
    assert run.before == {}  # the card is of other samples: the difference would mean nothing
    assert "(+" not in compare.markdown(compare.tables([run], ["b"], {}))


def test_an_ablation_has_its_table_and_charts(tmp_path, capsys):
    run, plain = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    write_card(run, 20, 0.7, 0, **{"lora": 0.69, "projector": 0.6})
    assert compare.main([str(run), str(plain), "--md"]) == 0
    evaluation, ablation = capsys.readouterr().out.split("## Ablation")
    assert "referring:lora" not in evaluation
    assert "| run | metric | full | lora | projector |" in ablation
    assert "| a | referring/cIoU | 0.7 [0.6, 0.8] | 0.69 (-0.01 [-0.02, +0.01]) | 0.6 (-0.1 [-0.02, +0.01]) |" in ablation
    assert "| b |" not in ablation.split("\n## ")[0]
    runs = [read_run(run), read_run(plain)]
    charts = {chart["title"]: chart for chart in embedded(page(runs, ["a", "b"], groups_of(runs, {}), []))["points"]}
    assert charts["referring"]["metrics"] == ["cIoU"]
    found = charts["referring/cIoU"]
    assert (found["section"], found["metrics"]) == ("Ablation", ["full", "lora", "projector"])
    assert [values[0] for values in found["values"][0]] == [0.7, 0.69, 0.6]
    assert {values[0] for values in found["values"][1]} == {None}  # b's own evaluation is not the ablation's full


def test_a_folder_of_runs_and_sweeps_holds_them_all(seeds):
    alone = write_run(seeds.parent / "tiny-alone")
    write_run(alone / "export" / "nothing-is-sought-inside-a-run")
    found = find_runs([seeds.parent])
    assert found == [*sorted(seeds.iterdir()), alone]
    assert find_runs([seeds.parent, alone]) == found


def test_differences_labels_and_groups(seeds):
    runs = [read_run(folder) for folder in find_runs([seeds])]
    varying = differences(runs)
    assert list(varying) == ["seed", "gradient.use", "gradient.anchor"]
    assert run_labels(runs, varying)[:2] == ["seed=1, gradient=pcgrad_orthogonal", "seed=2, gradient=pcgrad_orthogonal"]
    groups = groups_of(runs, varying)
    assert [(group.label, group.members) for group in groups] == [("gradient=pcgrad_orthogonal", [0, 1]), ("gradient=sum", [2, 3])]


def test_how_runs_were_evaluated_names_them_only_where_nothing_else_does(tmp_path):
    few, many = ({"referring": {"use": "refcoco", "max_samples": count}} for count in (8, 200))
    runs = [read_run(write_run(tmp_path / f"{op}{len(e)}", gradient={"use": op}, evaluate=e)) for op, e in (("sum", few), ("pcgrad", many))]
    assert run_labels(runs, differences(runs)) == ["gradient=sum", "gradient=pcgrad"]
    runs.append(read_run(write_run(tmp_path / "third", gradient={"use": "sum"}, evaluate=many)))
    assert run_labels(runs, differences(runs))[2] == "gradient=sum, max_samples=200"
    assert groups_of(runs, differences(runs))[0].label == "gradient=sum, max_samples=8"


def test_a_component_in_several_settings_is_told_apart(tmp_path):
    gradients = [{"use": "sum"}, {"use": "pcgrad", "scope": "global", "x": 1}, {"use": "pcgrad", "scope": "group", "x": 1}]
    runs = [read_run(write_run(tmp_path / str(i), gradient=gradient)) for i, gradient in enumerate(gradients)]
    labels = ["gradient=sum", "gradient=pcgrad, scope=global", "gradient=pcgrad, scope=group"]
    assert run_labels(runs, differences(runs)) == labels
    assert [group.label for group in groups_of(runs, differences(runs))] == labels


def test_equal_recipes_are_named_by_their_folders(tmp_path):
    runs = [read_run(write_run(tmp_path / name)) for name in ("a", "b", "x/b")]
    labels = run_labels(runs, differences(runs))
    assert labels[0] == "a"
    assert len(set(labels)) == 3


def test_interval_over_seeds():
    value = mean_interval([1.0, 2.0, 3.0])
    assert (value.value, value.high) == (2.0, pytest.approx(2 + 4.303 / math.sqrt(3)))
    assert mean_interval([1.0]).low is None
    for count, step in ((2, 0.001), (11, 0.001), (31, 0.001)):  # the quantile leaves 95 % of Student's density between its signs
        n = count - 1
        scale = math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2)) / math.sqrt(n * math.pi)
        places = (step * (i + 0.5) for i in range(round(t95(count) / step)))
        assert 2 * step * scale * sum((1 + x * x / n) ** (-(n + 1) / 2) for x in places) == pytest.approx(0.95, abs=2e-4)


def test_markdown(seeds, capsys):
    assert compare.main([str(seeds), "--md"]) == 0
    text = capsys.readouterr().out
    assert "| gradient | pcgrad_orthogonal, anchor=loop1 | pcgrad_orthogonal, anchor=loop1 | sum | sum |" in text
    assert "| metric | gradient=pcgrad_orthogonal (2 seeds) – baseline | gradient=sum (2 seeds) |" in text
    assert "| metric | gradient=pcgrad_orthogonal (2 seeds) | gradient=sum (2 seeds) |" in text
    assert "0.61 [0.55, 0.65] (+0.11)" in text
    row = next(line for line in text.splitlines() if line.startswith("| loop2/loss |"))
    assert row.count("0.315 [0.31, 0.32]") == 2  # two seeds: both ends


def test_what_the_user_can_put_right(tmp_path, capsys):
    assert compare.main([str(tmp_path / "none")]) == 2
    assert "there is no run folder" in capsys.readouterr().err
    assert compare.main([str(tmp_path)]) == 2
    assert "no run folder and holds none" in capsys.readouterr().err
    run = write_run(tmp_path / "a")
    assert compare.main([str(run), "-o", str(tmp_path / "no" / "x.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    (run / "recipe.json").write_text("{")
    assert compare.main([str(run)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def embedded(text: str) -> dict[str, Any]:
    """The data inside a page."""
    return json.loads(text.split('type="application/json">')[1].split("</script>")[0])


def test_a_long_run_is_thinned_and_markup_is_no_markup(tmp_path):
    run = read_run(write_run(tmp_path / "a", updates=2 * MOST_POINTS + 1))
    text = page([run], ["</script><b>x"], groups_of([run], {}), [])
    data = embedded(text)
    assert len(data["runs"][0]["update"]) <= MOST_POINTS
    assert data["runs"][0]["update"][-1] == 2 * MOST_POINTS + 1
    assert all(y is None or len(y) == len(data["runs"][0]["update"]) for chart in data["charts"] for y in chart["y"])
    assert data["runs"][0]["samples"][-1] == 16 * (2 * MOST_POINTS + 1)
    cut = read_run(write_run(tmp_path / "b", updates=MOST_POINTS + 1, finished=False))
    both = embedded(page([run, cut], ["a", "b"], groups_of([run, cut], {}), []))
    long, short = (one["update"] for one in both["runs"])
    assert short[:-1] == long[: len(short) - 1]  # the points of both lie at the same updates
    many = page([run] * 40, ["x"] * 40, groups_of([run] * 40, {}), [])
    assert len(many) < 2 * len(text)
    assert "<b>x" not in text.split("<script>")[0]


def test_samples_of_all_updates_are_on_the_page(tmp_path):
    folders = [write_run(tmp_path / name) for name in "ab"]
    for folder, updates in zip(folders, ((5, 10, 15), range(1, 31)), strict=True):
        (folder / "samples").mkdir()
        for update in updates:
            Image.new("RGB", (8, 8), (update, 0, 0)).save(folder / "samples" / f"update-{update:06d}.png")
    one, many = map(read_run, folders)
    assert [name for name in one.sheets if name.startswith("samples")] == [f"samples after update {n}" for n in (15, 10, 5)]
    assert [int(name.rpartition(" ")[2]) for name in many.sheets if name.startswith("samples")] == list(range(30, 0, -3))
    shown, earlier = page([one, many], ["a", "b"], groups_of([one, many], {}), []).split("<details><summary>Samples of ")
    assert "<h3>samples after update 15</h3>" in shown, "the newest of each run is in sight"
    assert "<h3>samples after update 30</h3>" in shown
    assert earlier.startswith("10 earlier updates</summary><h3>samples after update 27</h3>")
    assert earlier.index("update 12</h3>") < earlier.index("update 10</h3>") < earlier.index("update 9</h3>")


LINES = "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.scatterlayer path.js-line')).length"
#: Height of the second plot's axis, in units of what the runs' curves cover.
ROOM = """(p => { const [low, high] = p._fullLayout.yaxis.range, y = p.data.filter(t => t.line.width === 1).flatMap(t => t.y);
return (high - low) / (Math.max(...y) - Math.min(...y)); })(document.querySelectorAll('[data-section=Losses] .plot')[1])"""
#: The third plot's axis: its metric is 0.5 in every run.
CONSTANT = "document.querySelectorAll('[data-section=Losses] .plot')[2]._fullLayout.yaxis.range"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_in_a_browser(seeds, tab, tmp_path, width):
    write_run(seeds / "tiny-z-crashed", updates=5, finished=False, gradient={"use": "sum"}, optimizer={"use": "adamw", "lr": 0.5})
    out = tmp_path / "comparison.html"
    assert compare.main([str(seeds), "-o", str(out)]) == 0
    tab.open(out, width)
    if os.environ.get("DUALLOOP_SCREENSHOTS"):
        tab.screenshot(Path(os.environ["DUALLOOP_SCREENSHOTS"]) / f"comparison-{width}.png")
    assert tab.do("document.querySelectorAll('#legend button').length") == 3  # groups: two with two seeds, one crashed run
    assert tab.do(LINES) == 8  # three losses, conflict, cosine, norm, speed, memory
    first = "document.querySelector('[data-section=Losses] .plot').data.filter(t => t.name).length"
    assert tab.do(first) == 3
    assert tab.do("document.querySelectorAll('.plot .scatterlayer .js-fill').length") > 0  # intervals over the seeds
    assert 1 <= tab.do(ROOM) <= 2.2  # the interval over two seeds is 13 times as wide as they differ: it must not flatten them
    assert tab.do(CONSTANT) == [pytest.approx(0.25), pytest.approx(0.75)]
    # a real click hides a run everywhere, another brings it back
    place = tab.do("(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector('#legend button').getBoundingClientRect())")
    tab.click(*place)
    assert tab.do(first) == 2
    assert tab.do("document.querySelectorAll('figure[hidden]').length") == 2
    assert tab.do("document.querySelectorAll('tr[hidden]').length") == 2  # its rows in the table of runs
    assert tab.do("document.querySelectorAll('thead th[data-group][hidden]').length") == 2  # of two tables
    tab.click(*place)
    assert tab.do(first) == 3
    # in the dark the ground is dark, and curves, letters and the tables' marks are lighter
    look = (
        "[getComputedStyle(document.body).backgroundColor, document.querySelector('[data-section=Losses] .plot').data.at(-1).line.color, "
    )
    look += "getComputedStyle(document.querySelector('tr[data-run] th'), '::before').backgroundColor]"
    assert tab.do(look) == ["rgb(246, 246, 244)", "#009e73", "rgb(0, 114, 178)"]
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    tab.do("new Promise(done => setTimeout(done, 200))")  # the page hears of it with its next frame
    assert tab.do(look) == ["rgb(23, 24, 26)", "#4dbb9d", "rgb(77, 156, 201)"]
    tab.call("Emulation.setEmulatedMedia", features=[])
    tab.do("new Promise(done => setTimeout(done, 200))")
    # each run by itself, on another clock, without smoothing
    tab.do("document.getElementById('mean').click()")
    assert tab.do("document.querySelectorAll('#legend button').length") == 5
    tab.do("(e => { e.value = 0; e.dispatchEvent(new Event('input')); })(document.getElementById('smoothing'))")
    tab.do("(e => { e.value = 'samples'; e.dispatchEvent(new Event('change')); })(document.getElementById('clock'))")
    drawn = tab.do("document.querySelector('[data-section=Losses] .plot').data.map(t => [t.x.at(-1), t.y.at(-1)])")
    assert [320, pytest.approx(1 / 20 + 0.02)] in drawn
    assert [80, pytest.approx(0.2)] in drawn  # the crashed run, as far as it came
    # folded sections are drawn when opened
    tab.do("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    tab.do("new Promise(done => setTimeout(done, 300))")
    assert tab.do(LINES) == 10
    assert tab.do(OVERFLOW) <= 0  # wide tables scroll in themselves, the page does not
    sizes = tab.do("[...document.querySelectorAll('.plot')].map(p => p.getBoundingClientRect()).map(r => [r.left, r.right, r.height])")
    assert all(left >= 0 and right <= width and height >= 200 for left, right, height in sizes)
    assert tab.do("[...document.images].every(i => i.complete && i.naturalWidth === 300)")
    widths = "[...document.images].map(i => i.getBoundingClientRect().width)"
    fitted = tab.do(widths)
    tab.do("document.images[0].click()")
    assert {round(wide) for wide in tab.do(widths)} == {302}  # full size, with its border
    assert tab.do(OVERFLOW) <= 0
    tab.do("document.images[0].click()")
    assert tab.do(widths) == fitted
    assert tab.complaints == []
    assert {address.split(":")[0] for address in tab.requests} <= {"file", "data", "blob"}  # nothing is fetched
