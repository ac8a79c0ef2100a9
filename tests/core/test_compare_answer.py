"""Which group is better: pairs over seeds and pictures, good ways, names, and the page as it is drawn."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from PIL import Image
from test_compare import OVERFLOW, RECIPE, write_run

from core.commands import compare
from core.comparison.answer import answer_table
from core.comparison.good_way import good_ways
from core.comparison.grouping import differences, groups_of, run_labels, t95, together
from core.comparison.heading import heading
from core.comparison.meaning import meaning
from core.comparison.paired import difference, find_baseline
from core.comparison.runs import RunData, Value, find_runs, read_run
from core.contracts import LowestIsBest, UserError
from core.engine.history import keep_terms, kept_terms
from core.evaluation.draws import read_draws, write_draws
from core.registry import Registry
from plugins.evaluators.region_caption import RegionCaption

EVALUATE = {"referring": {"use": "refcoco"}, "caption": {"use": "region_caption"}}


def run_of(folder: Path, seed: int, op: str, **after: float) -> RunData:
    gradient = {"use": op} | ({"anchor": "loop1"} if op != "sum" else {})
    recipe = RECIPE | {"seed": seed, "gradient": gradient, "evaluate": EVALUATE}
    values = {f"referring/{name.replace('__', '@')}": Value(value) for name, value in after.items()}
    run = RunData(folder, recipe, [], {}, "finished", after=values)
    run.evaluators = {name: str(one["use"]) for name, one in EVALUATE.items()}
    return run


@pytest.fixture
def three_seeds(tmp_path) -> list[RunData]:
    """Seeds differ by much more than the two ops, whose difference is the same in each seed but for a little."""
    shifts = {1: 0.0, 2: 0.1, 3: -0.2}
    gain = {1: 0.010, 2: 0.012, 3: 0.011}
    runs = [run_of(tmp_path / f"s{seed}", seed, "sum", cIoU=0.6 + shift, no_seg_share=0.02) for seed, shift in shifts.items()]
    return runs + [
        run_of(tmp_path / f"p{seed}", seed, "pcgrad_orthogonal", cIoU=0.6 + shift + gain[seed], no_seg_share=0.01 * seed)
        for seed, shift in shifts.items()
    ]


def test_runs_with_equal_seeds_are_paired(three_seeds):
    groups = groups_of(three_seeds, differences(three_seeds))
    found = difference("referring/cIoU", groups[1], groups[0], three_seeds, "highest")
    assert found is not None
    gains = [0.010, 0.012, 0.011]
    half = t95(3) * stdev(gains) / math.sqrt(3)
    assert (found.value.value, found.over, found.verdict) == (pytest.approx(mean(gains)), "3 seeds", "better")
    assert [found.value.low, found.value.high] == [pytest.approx(mean(gains) - half), pytest.approx(mean(gains) + half)]
    assert half < 0.003 < 0.1 < t95(3) * stdev([0.6, 0.7, 0.4]) / math.sqrt(3)  # unpaired it would be lost among the seeds
    worse = difference("referring/cIoU", groups[0], groups[1], three_seeds, "highest")
    assert worse is not None
    assert worse.verdict == "worse"
    low = difference("referring/cIoU", groups[1], groups[0], three_seeds, "lowest")
    assert low is not None
    assert low.verdict == "worse"
    unknown = difference("referring/cIoU", groups[1], groups[0], three_seeds, None)
    assert unknown is not None
    assert unknown.verdict == "differs"
    even = difference("referring/no_seg_share", groups[1], groups[0], three_seeds, "lowest")
    assert even is not None
    assert even.verdict == "open"


def test_equal_differences_of_few_seeds_are_no_certainty(tmp_path):
    """A metric of 36 expressions moves in steps of 1 / 36: two seeds that both move by one step are no proof."""
    runs = [run_of(tmp_path / f"{op}{seed}", seed, op, cIoU=seed / 10 + (op != "sum") / 36) for op in ("sum", "pcgrad") for seed in (1, 2)]
    groups = groups_of(runs, {"gradient.use": ["sum", "sum", "pcgrad", "pcgrad"]})
    found = difference("referring/cIoU", groups[1], groups[0], runs, "highest")
    assert found is not None
    assert (found.value.value, found.value.low, found.verdict) == (pytest.approx(1 / 36), None, "")


def test_the_answer_comes_first_with_arrows_and_the_best(three_seeds):
    varying = differences(three_seeds)
    groups = groups_of(three_seeds, varying)
    good = good_ways(three_seeds, Registry())
    assert good == {"referring/cIoU": "highest", "referring/no_seg_share": "lowest"}
    table = answer_table(three_seeds, groups, 0, good)
    assert table is not None
    assert table.header == ["metric", "gradient=sum (3 seeds) – baseline", "gradient=pcgrad_orthogonal (3 seeds)"]
    first = table.rows[0]
    assert first[0] == "referring/cIoU ↑"
    assert first[2].splitlines()[0].endswith("★")
    assert "★" not in first[1]
    assert first[2].splitlines()[1].startswith("Δ +0.011 [+0.00852, +0.0135] better")
    assert "better" in table.marks[0, 2].split()
    assert table.rows[1][0] == "referring/no_seg_share ↓"
    assert "gradient=pcgrad_orthogonal beside gradient=sum (paired over 3 seeds): better in referring/cIoU; not told apart" in table.about
    assert "★" not in "".join(table.rows[1]), "both have the same mean"
    text = compare.markdown(compare.tables(three_seeds, run_labels(three_seeds, varying), varying))
    assert text.index("## Which is better") < text.index("## Runs")
    assert 'title="Sum of intersections' in table.html()


def test_two_groups_of_other_samples_are_not_subtracted(three_seeds):
    for i, run in enumerate(three_seeds):
        run.after["referring/n_expressions"] = Value(100 if i < 3 else 200)
    groups = groups_of(three_seeds, {"gradient.use": ["sum"] * 3 + ["pcgrad_orthogonal"] * 3})
    assert difference("referring/cIoU", groups[1], groups[0], three_seeds, "highest") is None
    table = answer_table(three_seeds, groups, 0, {"referring/cIoU": "highest"})
    assert table is not None
    assert table.rows[0][2].endswith("measured on other samples")
    assert "★" not in "".join(table.rows[0])


def test_without_a_common_seed_there_is_a_difference_and_no_interval(three_seeds):
    for run in three_seeds[3:]:
        run.recipe["seed"] += 10
    groups = groups_of(three_seeds, {"gradient.use": ["sum"] * 3 + ["pcgrad_orthogonal"] * 3})
    found = difference("referring/cIoU", groups[1], groups[0], three_seeds, "highest")
    assert found is not None
    assert (found.value.value, found.value.low, found.verdict) == (pytest.approx(0.011), None, "")


def draws_of(folder: Path, per_picture: np.ndarray, ids: list[str]) -> None:
    """The draws of the mean of some numbers, one for each picture."""
    generator = np.random.default_rng(0)
    means = np.stack([per_picture[generator.integers(len(per_picture), size=len(per_picture))].mean() for _ in range(1000)])
    folder.mkdir(parents=True)
    write_draws(folder, [{"unit": i, "id": name} for i, name in enumerate(ids)], {"cIoU": means, "odd": means * np.nan})


def test_two_single_runs_are_paired_over_their_pictures(tmp_path):
    pictures = np.random.default_rng(1).random(60)
    better = pictures + 0.02 + 0.01 * np.random.default_rng(2).standard_normal(60)
    runs = [run_of(tmp_path / "a", 1, "sum", cIoU=pictures.mean()), run_of(tmp_path / "b", 2, "pcgrad_orthogonal", cIoU=better.mean())]
    ids = [f"picture {i}" for i in range(60)]
    for run, values in zip(runs, (pictures, better), strict=True):
        draws_of(run.folder / "full", values, ids)
        run.draws = {"referring": run.folder / "full"}
    groups = groups_of(runs, {"gradient.use": ["sum", "pcgrad_orthogonal"], "seed": ["1", "2"]})
    found = difference("referring/cIoU", groups[1], groups[0], runs, "highest")
    assert found is not None
    assert (found.over, found.verdict) == ("60 pictures", "better")
    half = 1.96 * stdev(better - pictures) / math.sqrt(60)
    assert found.value.low == pytest.approx(found.value.value - half, abs=0.001)
    assert found.value.high == pytest.approx(found.value.value + half, abs=0.001)
    kept = read_draws(runs[0].folder / "full")
    assert kept is not None
    assert set(kept.draws["odd"]) == {None}
    draws_of(tmp_path / "other", better, [*ids[:-1], "another picture"])
    runs[1].draws = {"referring": tmp_path / "other"}
    apart = difference("referring/cIoU", groups[1], groups[0], runs, "highest")
    assert apart is not None
    assert (apart.value.low, apart.over) == (None, "")
    (tmp_path / "other" / "draws.json").write_text("{")
    assert difference("referring/cIoU", groups[1], groups[0], runs, "highest") == apart


def test_a_single_group_is_compared_with_itself_before_training(three_seeds):
    runs = three_seeds[:3]
    for run in runs:
        run.before = {"referring/cIoU": Value(run.after["referring/cIoU"].value - 0.05 - 0.001 * run.recipe["seed"])}
    groups = groups_of(runs, differences(runs))
    table = answer_table(runs, groups, find_baseline(None, runs, groups), {"referring/cIoU": "highest"})
    assert table is not None
    assert "Δ +0.052 [" in table.rows[0][1]
    assert "beside before training (paired over 3 seeds): better in referring/cIoU" in table.about


def test_a_baseline_is_named_by_a_group_a_part_of_it_or_a_run(three_seeds):
    groups = groups_of(three_seeds, differences(three_seeds))
    places = [
        find_baseline(asked, three_seeds, groups)
        for asked in (None, "before", "pcgrad", "gradient=sum", "p2", str(three_seeds[4].folder) + "/")
    ]
    assert places == [0, "before", 1, 0, 1, 1]
    with pytest.raises(UserError, match="no group has this name; there are before; gradient=sum; gradient=pcgrad_orthogonal"):
        find_baseline("cagrad", three_seeds, groups)
    with pytest.raises(UserError, match="several groups have this name"):
        find_baseline("gradient", three_seeds, groups)


def test_only_what_says_so_has_a_good_way(three_seeds):
    assert isinstance(RegionCaption, LowestIsBest)
    for run in three_seeds:
        run.after["caption/caption_ce"] = run.after["caption@10/CIDEr"] = Value(0.3)
    good = good_ways(three_seeds, Registry())
    assert (good["caption/caption_ce"], good["caption@10/CIDEr"]) == ("lowest", "highest")
    three_seeds[0].evaluators["caption"] = "not-installed"
    assert "caption/caption_ce" not in good_ways(three_seeds, Registry())
    three_seeds[0].recipe["checkpoint"] = {"best": "caption/caption_ce", "best_is": "lowest"}
    assert good_ways(three_seeds, Registry())["caption/caption_ce"] == "lowest"


def test_a_run_folders_own_code_is_not_imported(three_seeds, tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')\n")
    for run in three_seeds:
        run.evaluators["referring"] = f"{tmp_path / 'mine.py'}:Mine"
    assert good_ways(three_seeds, Registry()) == {}


def test_a_component_that_one_run_has_is_one_row():
    varying = {
        "gradient.use": ["sum", "pcgrad_orthogonal"],
        "gradient.anchor": ["–", "loop1"],
        "loops.loop3.use": ["–", "contrast"],
        "loops.loop3.tasks.a.weight": ["–", "1"],
        "loops.loop3.tasks.a.sampler.use": ["–", "x"],
        "train.updates": ["4", "8"],
        "train.new": ["–", "3"],
    }
    assert together(varying) == {
        "gradient": ["sum", "pcgrad_orthogonal, anchor=loop1"],
        "loops.loop3": ["–", "contrast, tasks.a.weight=1, tasks.a.sampler.use=x"],
        "train.updates": ["4", "8"],
        "train.new": ["–", "3"],
    }


def test_unlike_runs_go_by_one_name_everywhere(tmp_path):
    odd = {"model": {"use": "sa2va", "checkpoint": "x" * 40}, "start": "y" * 40}
    folders = [write_run(tmp_path / "first"), write_run(tmp_path / "second", seed=2), write_run(tmp_path / "third", **odd)]
    runs = [read_run(folder) for folder in folders]
    varying = differences(runs)
    assert run_labels(runs, varying) == ["first", "second", "third"]
    assert [group.label for group in groups_of(runs, varying)] == ["first and 1 more", "third"]


def test_the_heading_says_which_runs(tmp_path):
    sweep = tmp_path / "tiny-sweep-20260103-100000"
    for seed in (1, 2):
        record = {"begun": 1767400000.0, "versions": {"dualloop": "0.9"}, "commit": "abc123def456+"}
        (write_run(sweep / str(seed), seed=seed) / "made_of.json").write_text(json.dumps(record))
    title, about = heading([read_run(folder) for folder in find_runs([sweep])])
    assert title == "tiny-sweep-20260103-100000"
    assert about.startswith("2 runs (2 finished); begun 2026-01-0")
    assert about.endswith("dualloop 0.9, commit abc123def456+")


def test_terms_that_a_loop_made_itself_are_losses(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_text('{"update": 1, "loop1/loss": 1.0, "loop2/own/contrast": 0.5, "loop2/own/iou": 0.5}\n')
    assert read_run(folder).losses() == ["loop1/loss"]
    keep_terms(folder, ["loop2/own/contrast"])
    keep_terms(folder, ["loop2/own/contrast", "loop2/own/more"])
    assert kept_terms(folder) == ["loop2/own/contrast", "loop2/own/more"]
    assert read_run(folder).losses() == ["loop1/loss", "loop2/own/contrast"]
    (folder / "loss_terms.json").write_text("{")
    assert kept_terms(folder) == []


def test_meanings_are_of_names_that_are_known():
    assert meaning("surgery/kept").startswith("How much of the plain sum")
    assert meaning("surgery/kept/lora") == meaning("surgery/kept")
    assert meaning("evaluation/referring/cIoU") == meaning("referring@10/cIoU") != ""
    assert meaning("loop3/own/contrast") == ""


# ------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Two ops of two seeds each: a loss and a term of every fourth update, evaluations in training, samples, one of a third op."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-sweep-20260103-100000"
    names = [(op, seed) for op in ("sum", "pcgrad_orthogonal") for seed in (1, 2)] + [("uncertainty", 1)]
    for number, (op, seed) in enumerate(names):
        run = write_run(folder / f"{number}", shift=number / 100, seed=seed, gradient={"use": op}, evaluate=EVALUATE)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            update = row["update"]
            row["surgery/kept"] = 0.9
            if (update + seed) % 4:  # of the two seeds never in the same update
                del row["loop2/loss"]
            if update % 10 == 0:
                row["evaluation/referring/cIoU"] = 0.5 + update / 100 + number / 100
            if update == 20:
                row["evaluation/caption/CIDEr"] = 2.0
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run / "samples").mkdir()
        Image.new("RGB", (300, 200), "olive").save(run / "samples" / "update-000020.png")
    return folder


def chart(name: str) -> str:
    return f"[...document.querySelectorAll('.chart')].find(c => c.querySelector('h3').textContent === '{name}')"


#: Length of the longest path drawn in a chart, in pixels, that is wide and dark enough to be seen.
DRAWN = """(c => Math.max(0, ...[...c.querySelectorAll('.scatterlayer path.js-line')].filter(p => {
  const style = getComputedStyle(p); return parseFloat(style.strokeWidth) >= 1.5 && style.strokeOpacity > 0.5 && style.opacity > 0.5;
}).map(p => p.getTotalLength())))"""
MARKERS = "(c => [...c.querySelectorAll('.scatterlayer .points path')].filter(p => getComputedStyle(p).opacity > 0.5).length)"


@pytest.mark.parametrize("width", [1400, 390])
def test_curves_with_gaps_are_seen(sweep, tab, tmp_path, width):
    out = tmp_path / "comparison.html"
    assert compare.main([str(sweep), "-o", str(out), "--baseline", "sum"]) == 0
    tab.open(out, width)
    if os.environ.get("DUALLOOP_SCREENSHOTS"):
        tab.screenshot(Path(os.environ["DUALLOOP_SCREENSHOTS"]) / f"answer-{width}.png", whole=True)
    for mean_over_seeds in (True, False):
        drawn = {name: tab.do(f"{DRAWN}({chart(name)})") for name in ("loop2/loss", "loop1/loss", "evaluation/referring/cIoU")}
        assert all(length > 100 for length in drawn.values()), drawn
        assert tab.do(f"{MARKERS}({chart('loop2/loss')})") >= 5, "sparse curves have their points marked"
        assert tab.do(f"{MARKERS}({chart('evaluation/caption/CIDEr')})") >= 3, "one point alone is no line: it needs a mark"
        if mean_over_seeds:
            band = tab.do(f"{chart('loop1/loss')}.querySelector('.plot').data.slice(0, 2).map(t => t.y[19])")
            curves = tab.do(f"{chart('loop1/loss')}.querySelector('.plot').data.slice(2, 4).map(t => t.y[19])")
            assert band == [pytest.approx(min(curves)), pytest.approx(max(curves))]  # of two seeds: minimum and maximum
            tab.do("document.getElementById('mean').click()")
    # the answer comes first, below the heading
    assert tab.do("document.querySelector('h1').textContent") == sweep.name
    assert tab.do("document.querySelector('main h2').textContent") == "Which is better"
    assert tab.do("document.querySelector('main table').getBoundingClientRect().top") < 700
    assert tab.do("document.querySelectorAll('main details')[0].querySelectorAll('td.best').length") == 1
    about = f"{chart('surgery/kept')}.querySelector('p')"
    assert tab.do(f"{about}.hidden") is True
    tab.do(f"{chart('surgery/kept')}.querySelector('h3 button').click()")
    assert "surgery took nothing away" in tab.do(f"{about}.textContent")
    assert tab.do(f"{about}.hidden") is False
    assert "the same in all runs" in tab.do("document.querySelector('main').textContent")
    assert tab.do(OVERFLOW) <= 0
    assert tab.complaints == []
