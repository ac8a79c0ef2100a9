"""Which run --resume and launch.requeue mean: by recorded names and times, never by patterns."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.commands.words import recipe_and_run
from core.contracts import UserError
from core.engine.which_run import run_named, runs_of


def made(folder: Path, name: str, begun: float | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps({"name": name}))
    (folder / "recipe.yaml").write_text("")
    if begun is not None:
        (folder / "made_of.json").write_text(json.dumps({"begun": begun}))
    return folder


def test_runs_are_those_of_exactly_the_name_in_the_order_of_their_beginning(tmp_path: Path) -> None:
    second = made(tmp_path / "job-20260101-000000", "job", begun=2e9)
    first = made(tmp_path / "job-20270101-000000", "job", begun=1.9e9)
    made(tmp_path / "job-b-20280101-000000", "job-b")
    made(tmp_path / "job-20290101-000000-2", "job 2")
    renamed = made(tmp_path / "the good one", "job", begun=2.1e9)
    older = made(tmp_path / "job-20200101-000000", "job")  # it recorded no time
    (tmp_path / "job-sweep-20260101-000000").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "recipe.json").write_text("{")
    assert runs_of(tmp_path, "job") == [older, first, second, renamed]
    odd = made(tmp_path / "lr[1]*?-20260101-000000", "lr[1]*?")
    assert runs_of(tmp_path, "lr[1]*?") == [odd]
    assert runs_of(tmp_path / "nowhere", "job") == []


def test_what_is_no_run_folder_is_explained(tmp_path: Path) -> None:
    run = made(tmp_path / "runs" / "fast-20260101-000000", "fast", 1.0)
    newest = made(tmp_path / "runs" / "fast-1", "fast", 2.0)
    for update in (2, 4):
        (run / "checkpoints" / f"update-{update:06d}").mkdir(parents=True)
    assert run_named(run) == run
    assert run_named(run / "checkpoints" / "update-000004") == run  # the newest checkpoint: that is what --resume goes on from
    for path, sentence in {
        run / "checkpoints" / "update-000002": r"goes on from its newest checkpoint, update-000004: --resume .*start_from=.*update-000002",
        run / "checkpoints" / "update-000003": r"not found; the run .* has the checkpoints of updates 2, 4",
        run / "checkpoints": r"it lies in the run .*fast-20260101-000000: name that folder",
        tmp_path / "runs": rf"is no run folder .*; the newest run in it is {newest}",
        tmp_path / "runs" / "fast-2": r"nothing to resume: no run folder .*; did you mean .*fast-1",
        tmp_path / "nowhere" / "x": r"nothing to resume: no run folder .*; run without --resume first",
        run / "recipe.json": r"this file is neither a run folder nor a recipe",
        newest / "checkpoints" / "update-000001": r"the run .*fast-1 has no|not found|it lies in the run",
    }.items():
        if path.name == "update-000001":
            (newest / "checkpoints").mkdir()
        with pytest.raises(UserError, match=sentence):
            run_named(path)
    (run / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"recipe\.yaml: not found; a run is resumed with its own recipe"):
        run_named(run)


def test_a_job_started_again_goes_on_with_the_unfinished_run_of_its_own_recipe(tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from core.engine.going_on import write_recipe
    from core.engine.run_folder import run_folder
    from core.registry import Registry

    registry = Registry()

    def of(*overrides: str):  # type: ignore[no-untyped-def]
        return tiny("name=job", "launch.requeue=true", *overrides)

    def found(*overrides: str) -> tuple[Path, bool, list[str]]:
        with ExitStack() as held:
            where = run_folder(of(*overrides), registry, None, held)
        return Path(where.folder), where.new, where.notes

    mine, new, _ = found()
    assert new
    other = tmp_path / "runs" / "job-other"  # of the same name, begun later, finished
    other.mkdir()
    write_recipe(other, of("optimizer.lr=0.1"), registry)
    (other / "result.json").write_text("{}")
    os.utime(other / "recipe.json", (4e9, 4e9))
    assert found()[:2] == (mine, False)
    (other / "result.json").unlink()
    (mine / "result.json").write_text("{}")
    folder, new, [note] = found()
    assert new
    assert folder not in (mine, other)
    assert "launch.requeue goes on with runs of this recipe only" in note  # one is unfinished, but of another recipe: it is said
    assert "optimizer.lr was 0.1, is 5e-05" in note


def test_the_recipe_in_a_runs_folder_means_that_run(tmp_path: Path) -> None:
    """Also where a newer run has the same name, which the recipe elsewhere would mean."""
    (tmp_path / "run").mkdir()
    file, other = tmp_path / "run" / "recipe.yaml", tmp_path / "recipe.yaml"
    for one in (file, other, tmp_path / "run" / "recipe.json"):
        one.write_text("{}")

    def meant(recipe: str | None, resume: object) -> tuple[str, object]:
        return recipe_and_run(argparse.Namespace(recipe=recipe, resume=resume, overrides=[]))

    assert meant(None, str(file)) == (str(file), file.parent)  # --resume RUN/recipe.yaml
    assert meant(str(file), True) == (str(file), file.parent)  # RUN/recipe.yaml --resume
    assert meant(str(file), None) == (str(file), None)  # a new run of it
    assert meant(None, str(other)) == (str(other), True)
    assert meant(str(other), True) == (str(other), True)
