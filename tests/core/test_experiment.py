"""An experiment: its file, where its runs stand, its report. Runs themselves are the business of the tests of runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from core.commands import experiment as command
from core.contracts import UserError
from core.experiments.block import block, faults_of_page
from core.experiments.carry_out import Done, carry_out_all, reason
from core.experiments.definition import Cell, Experiment, entry_name, written
from core.experiments.figure import axis, svg
from core.experiments.reading import read_experiment
from core.experiments.report import parts, table, write_report
from core.experiments.results import chosen_variants
from core.experiments.run_recipes import overrides, recipes
from core.experiments.stamps import Stamps
from core.experiments.standing import KEPT, Looking, Standing, keep
from core.installed.children import wait_for
from core.registry import Registry

ROOT = Path(__file__).parents[2]
TEXT = f"""\
experiment: 1
name: small
about: Does it help?
base: {ROOT}/recipes/dual_loop_tiny.yaml
baseline: plain
seeds: [1, 2, 3]
output: OUT
variants:
  before: {{untrained: true}}
  plain:
  less: {{set: {{loops.loop2.weight: 0.1}}}}
  more: {{set: {{loops.loop2.weight: 0.9}}}}
choose:
  tuned: {{among: [less, more], by: mask/cIoU}}
evaluate:
  val: {{mask: {{use: refcoco, data: {{use: refcoco, root: "${{data.world}}/ref_seg", split: val}}}}}}
  test: {{mask: {{use: refcoco, data: {{use: refcoco, root: "${{data.world}}/ref_seg", split: testA}}}}}}
"""


def made(folder: Path, text: str = TEXT) -> Experiment:
    file = folder / "small.yaml"
    file.write_text(text.replace("OUT", str(folder / "out")))
    return read_experiment(file)


def test_one_seed_of_all_variants_comes_first(tmp_path: Path) -> None:
    cells = made(tmp_path).cells()
    assert [cell.name for cell in cells[:5]] == ["before", "plain-seed1", "less-seed1", "more-seed1", "plain-seed2"]
    assert len(cells) == 1 + 3 * 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("baseline: plain", "baseline: plane", "small.yaml:5: baseline: there is no variant 'plane'"),
        ("baseline: plain", "baseline: less", "one of several among which val chooses"),
        ("seeds: [1, 2, 3]", "seeds: [1, 1]", "each given once"),
        ("seeds: [1, 2, 3]", "seeds: 3", "expected a list of seeds"),
        ("untrained: true", "untraned: true", "did you mean 'untrained'"),
        ("untrained: true", "untrained: true, seeds: [1]", "an untrained model has no seeds"),
        ("loops.loop2.weight: 0.1", "seed: 4", "the experiment sets seed itself"),
        ("dual_loop_tiny.yaml", "dual_loop_tinny.yaml", "did you mean 'dual_loop_tiny.yaml'"),
        ("[less, more]", "[less, mor]", "there is no variant 'mor'"),
        ("by: mask/cIoU", "by: masks/cIoU", "expected a metric of val"),
        ("  test: {mask: {use: refcoco,", "  test: {mask: {uses: refcoco,", "expected an evaluator: a mapping with use"),
        ("about: Does it help?\n", "", "the key 'about' is missing"),
        ("  plain:\n", "  plain:\n  plain:\n", "duplicate key"),
        ("  plain:\n", "  a/b:\n  plain:\n", "a name must not have /"),
        ("experiment: 1", "experiment: 2", "version 1 only"),
        ("seeds: [1, 2, 3]", "seeds: [" + ", ".join(map(str, range(400))) + "]", "more than 1000"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in TEXT
    with pytest.raises(UserError) as told:
        made(tmp_path, TEXT.replace(old, new))
    assert said in str(told.value)
    assert "small.yaml" in str(told.value)


def test_two_runs_have_no_common_folder(tmp_path: Path) -> None:
    text = TEXT.replace("variants:\n", "cases: {a: {train.updates: 1}, a-b: {train.updates: 1}}\nvariants:\n  b-plain:\n")
    with pytest.raises(UserError, match="the same folder, a-b-plain-seed1"):
        made(tmp_path, text)


def test_a_fault_of_a_recipe_is_told_where_the_file_has_it(tmp_path: Path) -> None:
    experiment = made(tmp_path, TEXT.replace("loops.loop2.weight: 0.1", "loops.loop2.weigth: 0.1"))
    with pytest.raises(UserError, match=r"small\.yaml:11: loops\.loop2\.weigth: unknown key .*variant less(.|\n)*nothing has been started"):
        recipes(experiment, experiment.cells(), Registry())


@pytest.mark.parametrize(
    "value", [1e-5, "60", 60, True, None, [0.3, 1.7], {"use": "sum"}, "${data.world}/x", "a, b: c", float("inf"), "[x]"]
)
def test_a_value_reaches_the_recipe_as_the_file_has_it(tmp_path: Path, value: object) -> None:
    from core.recipe.source import read

    file = tmp_path / "base.yaml"
    file.write_text("recipe: 1\n")
    assert read(file, [f"a.b={written(value, tmp_path)}"]).values["a"]["b"] == value


def test_a_local_file_is_meant_from_the_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert written({"use": "./parts.py:X"}, tmp_path / "deep") == "{use: './deep/parts.py:X'}"


@pytest.fixture(scope="module")
def looking(tmp_path_factory: pytest.TempPathFactory) -> Looking:
    experiment = made(tmp_path_factory.mktemp("experiment"))
    return Looking(experiment, recipes(experiment, experiment.cells(), Registry()), Registry())


def evaluated(looking: Looking, cell: Cell, values: dict[str, float]) -> Standing:
    """The folder of a finished run, with the cards of the groups in ``values``."""
    place = looking.experiment.place(cell)
    run = place if cell.seed is None else place / f"{cell.variant}-20260101-000000"
    run.mkdir(parents=True, exist_ok=True)
    asked = {}
    for group, value in values.items():
        name = entry_name(group, "mask")
        asked[name] = looking.stamps.evaluation(cell, group, "mask")
        card = run / "evaluation" / ("base" if cell.seed is None else "update-000120") / name / "card.json"
        card.parent.mkdir(parents=True, exist_ok=True)
        results = {"cIoU": {"value": value}, "n_expressions": {"value": 9}}
        card.write_text(json.dumps({"results": {name: results}, "protocol": {"use": "refcoco"}}))
    if cell.seed is not None:
        (run / "checkpoints" / "update-000120").mkdir(parents=True, exist_ok=True)
        (run / "recipe.json").write_text(json.dumps({"name": cell.variant, "seed": cell.seed}))
        (run / "result.json").write_text("{}")
    keep(run, {"definition": looking.stamps.definition(cell), "asked": asked})
    return looking.at(cell)


def test_what_is_done_is_left_and_what_changed_is_told(looking: Looking) -> None:
    cell = Cell("", "plain", 1)
    assert looking.at(cell).said() == "missing"
    assert evaluated(looking, cell, {"val": 0.5}).missing == [("test", "mask")]
    standing = evaluated(looking, cell, {"val": 0.5, "test": 0.4})
    assert standing.done
    run = standing.run
    assert run is not None
    kept = json.loads((run / KEPT).read_text())
    keep(run, {"asked": kept["asked"] | {"test-mask": "of another evaluator"}})
    assert looking.at(cell).missing == [("test", "mask")]
    assert looking.at(cell).other  # so that it is measured anew, not refused
    keep(run, {**kept, "definition": "of another recipe"})
    assert looking.at(cell).said() == "changed"
    keep(run, kept)
    (run / "result.json").unlink()
    assert looking.at(cell).said() == "stopped"
    keep(run, {"definition": "of another recipe"})
    assert looking.at(cell).said() == "changed"
    (run / "checkpoints" / "update-000120").rmdir()
    assert looking.at(cell).said() == "missing"  # it had trained nothing
    keep(run, kept)


VALUES = {"plain": (0.50, 0.54, 0.52), "less": (0.60, 0.65, 0.61), "more": (0.40, 0.46, 0.41)}


@pytest.fixture(scope="module")
def standings(looking: Looking) -> list[Standing]:
    for variant, values in VALUES.items():
        for seed, value in enumerate(values, 1):
            evaluated(looking, Cell("", variant, seed), {"val": value, "test": value - 0.1})
    evaluated(looking, Cell("", "before", None), {"val": 0.2, "test": 0.1})
    cells = looking.experiment.cells()
    return [looking.at(cell, chosen_variants(looking.experiment, looking, cells)) for cell in cells]


def test_val_chooses_and_test_has_the_chosen_one_alone(looking: Looking, standings: list[Standing]) -> None:
    cells = [one.cell for one in standings]
    assert chosen_variants(looking.experiment, looking, cells) == {("", "less")}
    assert all(one.done for one in standings)
    page = write_report(looking.experiment, standings, looking.stamps, looking.experiment.folder)
    text = page.read_text()
    assert "| tuned (less, chosen on val) | 3 |" in text
    assert "| more |" not in text
    assert "| more |" in page.with_name("val.md").read_text()
    assert "less 0.620, more 0.423" in text
    assert "<svg" in page.with_name("report.html").read_text()
    drawn = ElementTree.fromstring(page.with_name("report.svg").read_text())
    assert sum(one.tag.endswith("circle") for one in drawn.iter()) == 2 * 4 + 1  # two variants with three seeds and a mean, one value
    labels = {one.text or "": float(one.get("x", "0")) for one in drawn.iter() if one.get("text-anchor") == "end"}
    assert labels["tuned (less, chosen on val)"] > 7.5 * 27  # a bold letter takes 7 to 8 pixels: the label begins in the picture


def test_long_names_of_metrics_do_not_meet() -> None:
    long = [f"{number}_of_the_evaluators/caption_token_accuracy" for number in range(2)]
    part = SimpleNamespace(metrics=long, case="", rows=SimpleNamespace(groups=[], baseline=-1))
    drawn = ElementTree.fromstring(svg([part], SimpleNamespace(name="x")))  # type: ignore[list-item, arg-type]
    first, second = (float(one.get("x", "0")) for one in drawn.iter() if one.text in long)
    assert second - first > 7.5 * len(long[0])


def test_the_table_has_means_spread_and_paired_differences(looking: Looking, standings: list[Standing]) -> None:
    from core.experiments.results import choices, results_of

    experiment = looking.experiment
    chosen = {"": choices(experiment, "", results_of(standings, experiment, "val"), [one.cell for one in standings])}
    (part,) = parts(experiment, "test", standings, chosen)
    found = {row[0]: row[1:] for row in table(part, experiment, "test").rows}
    assert found["plain – baseline"] == ["3", "0.420 (0.400..0.440)"]
    # differences 0.10, 0.11, 0.09: 0.1 +- 4.303 * 0.01 / sqrt(3)
    assert found["tuned (less, chosen on val)"] == ["3", "0.520 (0.500..0.550)\nΔ +0.100 [+0.075, +0.125] ▲"]
    # one value beside three: 0.1 less 0.40, 0.44, 0.42
    assert found["before"] == ["1 (untrained)", "0.100\nΔ -0.320 [-0.370, -0.270] ▼"]


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (1.0, 1.0), (-0.2, -0.2), (0.41, 0.43), (0.0, 1.0), (3.0, 400.0)])
def test_an_axis_holds_all_values_and_is_never_empty(low: float, high: float) -> None:
    first, last, step = axis(low, high)
    assert first <= low + 1e-9 <= high + 2e-9 <= last + 3e-9
    assert 1 <= round((last - first) / step) <= 7


def test_what_is_missing_is_marked(looking: Looking, standings: list[Standing]) -> None:
    lacking = [Standing(one.cell) if one.cell == Cell("", "plain", 3) else one for one in standings]
    page = write_report(looking.experiment, lacking, looking.stamps, looking.experiment.folder / "incomplete")
    text = page.read_text()
    assert "| plain – baseline | 2 of 3 |" in text
    assert "Incomplete, 1 of 10 runs are missing: plain, seed 3: missing." in text


def test_data_made_anew_between_two_runs_are_told(looking: Looking, standings: list[Standing]) -> None:
    from core.experiments.results import other_data

    runs = [one for one in standings if one.cell.variant == "plain"]
    for number, one in enumerate(runs):
        files = {"1/instances.json": {"sha256": "a" if number < 2 else "b"}}
        beside = {"1/instances.json": {"sha256": "of another split in the same place"}}
        made_of: dict[str, Any] = {"paths": {f"loops.{name}.root": ["data/x", "/there/data/x"] for name in ("x", "y")}}
        made_of["sources"] = {"loops.x": {"files": files}, "loops.y": {"files": beside}}
        assert one.run is not None
        (one.run / "made_of.json").write_text(json.dumps(made_of))
    assert other_data(runs[:2]) == []
    (line,) = other_data(runs)
    assert line == "/there/data/x held other data for plain, seed 3 than for plain, seed 1: these runs do not belong together"
    for one in runs:
        assert one.run is not None
        (one.run / "made_of.json").unlink()


def test_a_table_in_a_page_is_tied_to_recipe_base_and_text(tmp_path: Path) -> None:
    experiment = made(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n" + block(experiment, "aaa", "bbb", "| a | b |\n![x](report.svg)\n") + "after\n")
    assert faults_of_page(page, experiment, "aaa", "bbb") == []
    page.write_text(page.read_text().replace("](report.svg)", "](figures/x.svg)"))  # a figure may lie elsewhere
    assert faults_of_page(page, experiment, "aaa", "bbb") == []
    assert "other recipes" in faults_of_page(page, experiment, "ccc", "bbb")[0]
    assert "another base" in faults_of_page(page, experiment, "aaa", "ccc")[0]
    page.write_text(page.read_text().replace("| a | b |", "| a | c |"))
    assert "changed by hand" in faults_of_page(page, experiment, "aaa", "bbb")[0]
    page.write_text("nothing")
    with pytest.raises(UserError, match="holds no report of small"):
        faults_of_page(page, experiment, "aaa", "bbb")


def test_the_stamp_follows_recipe_and_evaluation(looking: Looking, tmp_path: Path) -> None:
    def stamp(text: str) -> tuple[str, str]:
        experiment = made(tmp_path, text)
        found = recipes(experiment, experiment.cells(), Registry())
        return Stamps(experiment, found, Registry()).whole(experiment.cells())

    recipe, base = looking.stamps.whole(looking.experiment.cells())
    assert stamp(TEXT + "# a comment\n") == (recipe, base)
    assert stamp(TEXT.replace("weight: 0.1", "weight: 0.2"))[0] != recipe
    assert stamp(TEXT.replace("split: testA", "split: testB"))[0] != recipe


def test_a_failure_stops_none_of_the_others_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.experiments import carry_out

    experiment, said, done = made(tmp_path), [], Done()

    def wait(arguments: list[str], log: Path) -> tuple[int, bool]:
        failing = arguments[-1] == "less-seed1"
        log.write_text("loading\nerror: the data are not there\nbye\n" if failing else "fine\n")
        return (5 if failing else 0), False

    monkeypatch.setattr(carry_out, "wait_for", wait)
    carry_out_all(experiment, experiment.cells()[:4], said.append, done)
    assert (done.carried, done.code) == (4, 5)
    assert done.failed == {Cell("", "less", 1): "the data are not there (exit code 5)"}
    assert any("3 left, about" in line for line in said)


def test_the_reason_is_that_of_the_last_try(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: of before\nfinished\n")
    assert reason(log, len("error: of before\n"), 3) == "finished (exit code 3)"


def test_a_log_takes_both_outputs(tmp_path: Path) -> None:
    code = "import sys; print('one', flush=True); print('two', file=sys.stderr); sys.exit(4)"
    assert wait_for([sys.executable, "-c", code], tmp_path / "log") == (4, False)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_the_commands_for_a_scheduler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = made(tmp_path)
    assert command.main([str(experiment.file), "--commands", "--only", "plain", "--seeds", "2", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"python -m core.experiment {experiment.file} --cell plain-seed{seed}" for seed in (2, 3)]
    assert command.main([str(experiment.file), "--commands", "--only", "nobody"]) == 2
    assert "there are before, less, more, plain" in capsys.readouterr().err
    assert command.main([str(experiment.file), "--cell", "plain-seed9"]) == 2


def test_another_baseline_must_have_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = made(tmp_path)
    assert command.main([str(experiment.file), "--report", "--baseline", "less"]) == 2
    assert "there are before, plain, tuned" in capsys.readouterr().err


def test_a_run_gets_the_evaluators_of_the_experiment_alone(tmp_path: Path) -> None:
    experiment = made(tmp_path)
    cell = Cell("", "plain", 2)
    recipe = recipes(experiment, [cell], Registry())[cell]
    assert set(recipe.values["evaluate"]) == {"val-mask", "test-mask"}
    assert recipe.values["train"]["evaluate"] == "none"
    assert "seed=2" in overrides(experiment, cell)
