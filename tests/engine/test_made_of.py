"""A run goes on with the base, the data and the components it was made of, wherever they lie, and with no others."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from core.checkpoints import contents, stamps
from core.checkpoints.own_recipe import own_recipe
from core.checkpoints.trained_weights import open_run
from core.commands.convert import main as convert
from core.commands.run import main
from core.contracts import BadSample, Region, StoredPicture, UserError
from core.engine import runner
from core.recipe import Recipe
from core.registry import Registry

Make = Callable[..., Recipe]


def again(recipe: Recipe, run: Path) -> None:
    """Takes the last checkpoint and the result away, and goes on."""
    last = run / "checkpoints" / "update-000004"
    shutil.rmtree(last, ignore_errors=True)
    (run / "result.json").unlink(missing_ok=True)
    assert runner.run(recipe, Registry(), resume=run, quiet=True) == 0
    assert last.is_dir()


def refused(recipe: Recipe, run: Path, sentence: str) -> None:
    (run / "result.json").unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "run.lock"}
    with pytest.raises(UserError, match=sentence):
        runner.run(recipe, Registry(), resume=run, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "run.lock"} == before


@pytest.fixture
def moved(tiny: Make, tmp_path: Path, world: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run over copies of base and data that were named relative to the folder ``here``."""
    here = tmp_path / "here"
    shutil.copytree(small_checkpoint, here / "base")
    shutil.copytree(world, here / "world")
    monkeypatch.chdir(here)
    recipe = tiny("data.world=world", "model.checkpoint=base", "output=runs")
    assert runner.run(recipe, Registry(), quiet=True) == 0
    [run] = (here / "runs").iterdir()
    return run


def test_base_and_data_may_move_and_may_not_change(
    moved: Path, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, run = tmp_path / "here", moved
    assert "${data.world}/ref_seg" in (run / "recipe.yaml").read_text()
    monkeypatch.chdir(tmp_path)  # from another folder: what was relative is found where the run was begun
    assert own_recipe(run).values["model"]["checkpoint"] == str(here / "base")
    again(own_recipe(run), run)
    (here / "base").rename(tmp_path / "base")
    (here / "world").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"model\.checkpoint: .*base is not there; where it was moved, name its place: --resume .* model"):
        again(own_recipe(run), run)
    new = (f"model.checkpoint={tmp_path / 'base'}", f"data.world={tmp_path / 'elsewhere'}")
    again(own_recipe(run, new), run)
    again(own_recipe(run), run)  # the recipe in the folder names what trained last
    assert str(tmp_path / "elsewhere") in (run / "recipe.yaml").read_text()
    with pytest.raises(UserError, match=r"data\.wrold=x: nothing in .*recipe\.yaml takes \$\{data\.wrold\}, so it would change nothing"):
        own_recipe(run, ["data.wrold=x"])
    [first] = [line for line in (run / "until-update-000002" / "recipe.yaml").read_text().splitlines() if "checkpoint: " in line]
    assert "checkpoint: base" in first  # what trained before is kept
    # exports
    (tmp_path / "base").rename(tmp_path / "base2")
    assert convert([str(run), str(tmp_path / "out"), "--base", str(tmp_path / "base2")]) == 0
    assert convert([str(run), str(tmp_path / "out2"), f"model.checkpoint={tmp_path / 'base2'}"]) == 0
    tensors = load_file(tmp_path / "base2" / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, tmp_path / "base2" / "model.safetensors")
    capsys.readouterr()
    assert convert([str(run), str(tmp_path / "out3"), "--base", str(tmp_path / "base2")]) == 2
    assert "was trained over other files than these: model.checkpoint: model.safetensors differs (was sha256" in capsys.readouterr().err
    assert not (tmp_path / "out3").exists()
    refused(own_recipe(run, [f"model.checkpoint={tmp_path / 'base2'}"]), run, r"trained over other files .*model\.safetensors differs")


def test_other_data_and_another_tokenizer_at_the_same_place_are_refused_with_what_differs(moved: Path, tmp_path: Path) -> None:
    world, base, run = tmp_path / "here" / "world", tmp_path / "here" / "base", moved
    file = world / "dam" / "LVIS" / "annotations.json"
    text, state = file.read_text(), file.stat()
    caption = next(word for word in ("red", "blue", "green") if word in text)
    file.write_text(text.replace(caption, caption[::-1], 1))  # one word of one sample, of equal length
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    refused(own_recipe(run), run, r"made with other data than these: loops\.\w+\.tasks\.\w+\.data\.\w+: .*annotations\.json differs")
    file.write_text(text)
    (base / "notes.md").write_text("x")
    shutil.copyfile(base / "model.safetensors", base / "model_backup.safetensors")  # nobody reads it
    again(own_recipe(run), run)
    (base / "tokenizer_config.json").write_text((base / "tokenizer_config.json").read_text() + "\n")
    refused(own_recipe(run), run, r"model\.checkpoint: tokenizer_config\.json differs")


MINE = """
class Mine:
    def __init__(self, *, anchor: str) -> None:
        self.anchor = anchor

    def weights(self, gram):
        return gram.scales.repeat(len(gram.groups), 1)
"""


def test_another_component_behind_the_same_name_is_refused(tiny: Make, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    local = f"gradient={{use: '{file}:Mine', anchor: loop1}}"
    assert runner.run(tiny(local), Registry(), quiet=True) == 0
    [run] = (tmp_path / "runs").iterdir()
    again(own_recipe(run), run)  # its own copy
    again(tiny(local), run)
    changed = tmp_path / "later" / "mine.py"
    changed.parent.mkdir()
    changed.write_text(MINE.replace("gram.scales.", "gram.scales.flip(0)."))
    refused(tiny(f"gradient={{use: '{changed}:Mine', anchor: loop1}}"), run, r"gradient: the code of mine\.py:Mine has changed since")
    made_of = json.loads((run / "made_of.json").read_text())
    made_of["components"]["optimizer"] |= {"package": "other-optimizers", "target": "others:AdamW"}
    (run / "made_of.json").write_text(json.dumps(made_of))
    refused(tiny(local), run, r"optimizer was others:AdamW of other-optimizers .*, is .*of dualloop")


def test_keys_that_are_younger_than_the_run_and_defaults_that_have_changed(
    tiny: Make, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "runs" / "run"))
    then = json.loads((run / "recipe.json").read_text())
    made_of = json.loads((run / "made_of.json").read_text())
    assert made_of["defaults"]["model.resize"] == "exact"
    assert made_of["components"]["gradient"]["target"].startswith("plugins.gradient_ops.")
    younger = json.loads(json.dumps(then))
    del younger["model"]["resize"]
    (run / "recipe.json").write_text(json.dumps(younger))
    again(tiny(), run)
    (run / "recipe.json").write_text(json.dumps(younger))
    refused(tiny("model.resize=fast"), run, r"model\.resize was not given \(its default is 'exact'\), is 'fast'")
    then["model"]["resize"] = "fast"  # the default then; the recipe does not name it
    (run / "recipe.json").write_text(json.dumps(then))
    (run / "made_of.json").write_text(json.dumps(made_of | {"defaults": made_of["defaults"] | {"model.resize": "fast"}}))
    shutil.rmtree(run / "checkpoints" / "update-000004")
    assert runner.run(tiny(), Registry(), resume=run) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "note: model.resize stays 'fast', its default when the run was made; it is 'exact' now" in said
    assert json.loads((run / "recipe.json").read_text())["model"]["resize"] == "fast"


def test_a_run_of_an_older_version_is_told_and_checked_from_then_on(moved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (moved / "made_of.json").unlink()
    shutil.rmtree(moved / "checkpoints" / "update-000004")
    (moved / "result.json").unlink()
    assert main(["--resume", str(moved)]) == 0
    assert "kept no record of its base and data until now" in " ".join(capfd.readouterr().out.split())
    base = tmp_path / "here" / "base"
    (base / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer_config\.json differs"):
        open_run(moved, Registry())
    (moved / "made_of.json").write_text("{")
    with pytest.raises(UserError, match=r"made_of\.json: is not what a run records .* restore the file, or remove it to go unchecked"):
        open_run(moved, Registry())


# -------------------------------------------------------------------------------------------------- hashes and stamps


def test_an_unchanged_file_is_not_read_again_and_a_change_is_seen_under_the_same_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    monkeypatch.setattr(contents, "SETTLED_S", -1.0)  # as if it had been written long ago
    first = contents.contents(contents.counted(file))
    with monkeypatch.context() as patch:
        patch.setattr(contents, "sha256", lambda path: pytest.fail("it was read again"))
        assert contents.contents(contents.counted(file), first) == first
    state = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_mtime_ns == state.st_mtime_ns
    [line] = contents.differences(first, contents.contents(contents.counted(file), first))
    assert line.startswith("differs (was sha256")
    monkeypatch.setattr(contents, "SETTLED_S", 2.0)
    assert contents.contents(contents.counted(file))[""]["state"] is None  # so recent that another change could look the same


def test_many_files_are_one_entry_and_a_change_in_one_is_seen(tmp_path: Path) -> None:
    files = {f"{number}.json": tmp_path / f"{number}.json" for number in range(contents.FEW + 5)}
    for name, file in files.items():
        file.write_text(name)
    then = contents.contents(files)
    assert list(then) == ["25 files"]
    files["7.json"].write_text("x.json")
    assert contents.differences(then, contents.contents(files))


def test_of_a_models_folder_the_named_weights_and_what_lies_beside_them(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.model", "a.safetensors", "b.safetensors", "old.safetensors", "README.md", ".hidden.json"):
        (tmp_path / name).write_text("{}")
    all_of_them = {"config.json", "tokenizer.model", "a.safetensors", "b.safetensors", "old.safetensors"}
    assert set(contents.counted(tmp_path)) == all_of_them
    (tmp_path / contents.INDEX).write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    assert set(contents.counted(tmp_path)) == all_of_them - {"old.safetensors"} | {contents.INDEX}
    (tmp_path / contents.INDEX).write_text("{")
    assert set(contents.counted(tmp_path)) == all_of_them | {contents.INDEX}


class Few:
    def __init__(self, count: int = 40, shade: int = 100, caption: str = "a cube") -> None:
        self.count, self.shade, self.caption = count, shade, caption

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Region:
        if index == 0:
            raise BadSample("blank caption", "0")
        return Region(str(index), np.full((9, 7, 3), self.shade, np.uint8), np.eye(9, 7, dtype=bool), self.caption)


def test_a_stamp_of_a_data_set_that_names_no_files() -> None:
    def stamp(data: Few) -> dict[str, object]:
        return stamps.stamp(data, {"": data}, {}, {})

    then = stamp(Few())
    assert stamps.differences(then, json.loads(json.dumps(stamp(Few())))) == []
    assert stamps.differences(then, stamp(Few(shade=102))) == []  # another decoder
    assert stamps.differences(then, stamp(Few(shade=120))) == ["15 of 16 samples that were looked at differ, such as 2"]
    assert stamps.differences(then, stamp(Few(caption="a ball"))) == ["15 of 16 samples that were looked at differ, such as 2"]
    assert stamps.differences(then, stamp(Few(count=39))) == ["it had 40 samples, has 39"]
    assert stamp(Few(count=0))["samples"] == 0


def test_a_replaced_picture_is_noticed_by_its_size_wherever_it_lies(tmp_path: Path) -> None:
    class Stored(Few):
        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.folder = folder

        def picture_files(self) -> list[StoredPicture]:
            return [StoredPicture(file) for file in self.folder.iterdir()]

    one = tmp_path / "one"
    one.mkdir()
    for number in range(40):
        (one / f"{number}.jpg").write_bytes(bytes(number + 1))

    def stamp(folder: Path) -> dict[str, object]:
        return stamps.stamp(Stored(folder), {"": Stored(folder)}, {}, {})

    then = stamp(one)
    shutil.copytree(one, tmp_path / "other", copy_function=shutil.copyfile)  # with times of now
    assert stamps.differences(then, stamp(tmp_path / "other")) == []
    assert stamps.differences({key: value for key, value in then.items() if key != "stored"}, stamp(one)) == []  # an earlier run's
    (tmp_path / "other" / "33.jpg").write_bytes(b"another")
    found = ["among its 40 pictures that were looked at some have another name, size or content"]
    assert stamps.differences(then, stamp(tmp_path / "other")) == found
    (tmp_path / "other" / "33.jpg").write_bytes(bytes(34))
    assert stamps.differences(then, stamp(tmp_path / "other")) == []
    (tmp_path / "other" / "33.jpg").write_bytes(bytes(17) + b"x" + bytes(16))  # of equal size
    assert stamps.differences(then, stamp(tmp_path / "other")) == found


def test_looking_at_samples_moves_no_generator() -> None:
    class Drawing(Few):
        def __getitem__(self, index: int) -> Region:
            np.random.rand()
            return super().__getitem__(index)

    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    stamps.stamp(Drawing(), {}, {}, {})
    assert np.random.get_state()[1].tolist() == before


def test_a_table_that_a_foreign_data_set_is_given_counts(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a")
    then = stamps.stamp(Few(), {}, {"table": table, "root": tmp_path}, {})
    table.write_text("b")
    assert stamps.differences(then, stamps.stamp(Few(), {}, {"table": table, "root": tmp_path}, {}))
