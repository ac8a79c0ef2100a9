"""The example packages, installed side by side: what is sound works, what is broken or clashes hurts only those who use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from packages import described_pictures
from test_scaffold import put_on_path

from core.commands.components import main
from core.commands.run import main as run
from core.recipe import Recipe, check, load, resolved_yaml
from core.registry import Registry
from core.scaffold import rendered

EXAMPLES = Path(__file__).parents[2] / "examples"
DISTRIBUTIONS = {
    "mask-folder": "datasets/mask_folder",
    "damped-conflict": "gradient_ops/damped_conflict",
    "expected-embedding": "samplers/expected_embedding",
    "mean-iou": "evaluators/mean_iou",
    "broken-turns": "schedules/broken_turns",
    "clash-left": "losses/shared_name",
    "clash-right": "losses/shared_name",
}


def test_all_of_them_installed_together(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the metadata that pip leaves; that it installs packages with such a pyproject.toml is seen in ``test_scaffold``."""

    def said() -> str:
        return "".join(capsys.readouterr())

    assert {path.parent.name for path in EXAMPLES.glob("*/pyproject.toml")} == set(DISTRIBUTIONS)
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__", ".*", "build")
    for name in DISTRIBUTIONS:
        put_on_path(Path(shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=ignored)), monkeypatch)

    assert main(["list", "--json"]) == 0
    listed = json.loads(said())
    theirs = {entry["distribution"]: f"{entry['kind']}/{entry['name']}" for entry in listed if entry["distribution"] != "dualloop"}
    assert theirs == DISTRIBUTIONS

    assert main(["doctor"]) == 1
    told = said()
    assert f"{len(listed)} components, 1 fault, 1 name clash\n" in told
    broken, clash = told.split("clash: ")
    assert "broken: schedules/broken_turns = broken_turns:BrokenTurns, of broken-turns 0.1.0" in broken
    assert "No module named 'a_module_that_nobody_has'" in broken
    assert "pip install a_module_that_nobody_has; or: pip uninstall broken-turns" in broken
    assert "write use: clash-left/shared_name or use: clash-right/shared_name" in clash

    file = tmp_path / "recipe.yaml"
    file.write_text(resolved_yaml(tiny("train.updates=2")))
    loss = "loops.loop1.tasks.pseudo.losses.mask.use"
    clash, broken = map(str, check(load(file, ["schedule.use=broken_turns", f"{loss}=shared_name"]), Registry()))
    assert "schedule.use: schedules/broken_turns (broken_turns:BrokenTurns of broken-turns 0.1.0) cannot be imported" in broken
    assert "clash-left/shared_name or clash-right/shared_name" in clash

    data = f"{{use: mask_folder, root: {described_pictures(tmp_path / 'pictures')}}}"
    command = [str(file), "--quiet", "train.evaluate=before_and_after"]
    command += ["gradient.use=damped_conflict", "loops.loop1.tasks.pseudo.sampler.use=expected_embedding"]
    command += [f"{loss}=clash-left/shared_name", "loops.loop1.tasks.referring.losses.mask.use=clash-right/shared_name"]
    command += [f"loops.loop2.tasks.cycle.data={{mine: {data}}}", f"evaluate.mine={{use: mean_iou, data: {data}}}"]
    assert run(command) == 0
    assert "loops.loop1.tasks.pseudo.sampler.k is left out: expected_embedding does not take it" in said()
    [folder] = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "result.json").read_text())["after"]["mine"]["n_regions"] == 4
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows if "surgery/weight/loop2" in row] == [1, 2]
    assert all(0.25 <= row["surgery/weight/loop2"] <= 0.5 for row in rows if "surgery/weight/loop2" in row)  # damped, the more against


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_an_example_shares_with_the_scaffold_is_what_the_scaffold_writes(name: str) -> None:
    """Byte for byte: pyproject.toml, py.typed, the README up to what the example shows, and a test that is the template's.

    The components are the examples' own. The CI file has no use inside another repository.
    """
    kind, entry = DISTRIBUTIONS[name].split("/")
    written = rendered(kind, name, entry)
    module = name.replace("-", "_")
    shared = {"pyproject.toml", f"{module}/py.typed"}
    if name not in ("mask-folder", "broken-turns"):  # another layout of files; a test that it is broken
        shared.add(f"tests/test_{module}.py")
    for path in sorted(shared):
        assert (EXAMPLES / name / path).read_bytes() == written[path].encode(), path
    if name != "broken-turns":
        frame = written["README.md"].partition("It starts as")[0]
        assert (EXAMPLES / name / "README.md").read_text(encoding="utf-8").startswith(frame)
    assert (EXAMPLES / name / module / "__init__.py").read_text(encoding="utf-8") != written[f"{module}/__init__.py"]
