"""Building from a recipe, and what a recipe says of files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import RECIPE

from core.contracts import UserError
from core.recipe import build, check, components_used, json_schema, load, local_files, path_report, resolved_values, resolved_yaml

TASK = ("loops", "one", "tasks", "seg")


def test_a_task_is_built_with_its_parts_and_without_its_data(folder) -> None:
    task = build(folder.load(), TASK, folder.registry)
    assert type(task).__name__ == "MyLoop"
    assert (task.sampler.k, task.sampler.temperature) == (4, 0.7)
    assert set(task.losses) == {"mask"}
    assert task.losses["mask"].weight == 2.0
    assert isinstance(task.losses["mask"].weight, float)  # 2 in the recipe


def test_a_source_gets_paths_as_paths(folder, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    source = build(folder.load("loops.one.tasks.seg.data.a.images=~/pictures"), (*TASK, "data", "a"), folder.registry)
    assert source.root == Path("/nowhere/a")
    assert source.images == Path("/home/someone/pictures")


def test_records_lists_and_sections_are_built(folder) -> None:
    recipe = folder.load("model.lora={r: 4}", "model.train=[lora]")
    model = build(recipe, ("model",), folder.registry)
    assert (model.lora.r, model.lora.alpha, model.train) == (4, 1.0, ["lora"])
    assert build(recipe, ("train",), folder.registry).accumulate == 1


def test_a_constructors_value_error_becomes_a_user_error_with_its_place(folder) -> None:
    recipe = folder.load("loops.one.tasks.seg.sampler.k=0")
    assert check(recipe, folder.registry) == []
    with pytest.raises(UserError, match=r"r\.yaml:11: loops\.one\.tasks\.seg\.sampler: k must be at least 1, got 0$") as caught:
        build(recipe, TASK, folder.registry)
    assert isinstance(caught.value.__cause__, ValueError)


def test_nothing_is_built_from_a_faulty_recipe(folder) -> None:
    with pytest.raises(UserError, match=r"train\.updates: expected an integer"):
        build(folder.load("train.updates=x"), TASK, folder.registry)


def test_path_report_lists_every_path_parameter(folder) -> None:
    (folder.path / "model").mkdir()
    report = path_report(folder.load("model.checkpoint=model"), folder.registry)
    assert report == [
        ("model.checkpoint", Path("model"), True, "command line"),
        ("loops.one.tasks.seg.data.a.root", Path("/nowhere/a"), False, f"{folder.path}/r.yaml:17"),
    ]


def test_components_used_and_local_files(folder) -> None:
    recipe = folder.load()
    assert ("model",) in [path for path, _ in components_used(recipe, folder.registry)]
    assert local_files(recipe) == [folder.path / "parts.py"]


def test_two_local_files_of_one_name_cannot_both_be_kept(folder) -> None:
    (folder.path / "sub").mkdir()
    with pytest.raises(UserError, match="have the same name: rename one"):
        local_files(folder.load("schedule.use=./sub/parts.py:Order"))


def test_local_names_of_a_base_are_meant_from_the_folder_of_the_base(folder) -> None:
    folder.write()
    (folder.path / "sub").mkdir()
    (folder.path / "sub" / "child.yaml").write_text("base: ../r.yaml\nname: child\n")
    recipe = load(folder.path / "sub" / "child.yaml")
    assert check(recipe, folder.registry) == []
    assert local_files(recipe) == [folder.path / "parts.py"]


def test_the_resolved_recipe_means_the_same_run(folder) -> None:
    recipe = folder.load("data.text='${x}'".replace("${", "\\${"), 'data.lines="a\\nb: # c"', "optimizer.lr=2.0e-5", "data.yes='no'")
    text = resolved_yaml(recipe, folder.registry, beside=True)
    again = load(folder.write(text, "again.yaml"))
    assert check(again, folder.registry) == []
    expected = resolved_values(recipe, folder.registry)
    assert resolved_values(again, folder.registry) == expected
    assert expected["data"]["text"] == "${x}"
    assert expected["loops"]["one"]["tasks"]["seg"]["sampler"]["temperature"] == 0.7


def test_the_resolved_recipe_tells_each_origin(folder) -> None:
    lines = [" ".join(line.split()) for line in resolved_yaml(folder.load("seed=5"), folder.registry).splitlines()]
    assert "seed: 5 # command line" in lines
    assert f"k: 4 # {folder.path}/r.yaml:13" in lines
    assert "accumulate: 1 # default" in lines
    assert "temperature: 0.7 # default" in lines
    assert "train: [projector] # default" in lines
    assert "temperature: 0.7 # default" not in resolved_yaml(folder.load())  # without a registry only what is written


def test_beside_names_local_files_as_lying_in_the_same_folder(folder) -> None:
    (folder.path / "sub").mkdir()
    (folder.path / "parts.py").rename(folder.path / "sub" / "parts.py")
    text = RECIPE.replace("./parts.py", "./sub/parts.py")
    assert yaml.safe_load(resolved_yaml(folder.load(text=text), beside=True))["model"]["use"] == "./parts.py:Model"
    assert yaml.safe_load(resolved_yaml(folder.load(text=text)))["model"]["use"] == "./sub/parts.py:Model"


def test_json_schema_takes_names_types_and_local_objects_from_signatures(folder) -> None:
    schema = json_schema(folder.registry)
    whole, part = schema["else"]["properties"], schema["then"]["properties"]
    assert whole["train"]["required"] == ["updates", "batch_size"]
    assert whole["train"]["properties"]["precision"] == {"enum": ["auto", "fp32", "bf16"]}
    assert whole["optimizer"] == {"$ref": "#/$defs/optimizers"}
    assert schema["if"] == {"required": ["base"]}
    assert "required" not in part["train"]
    assert part["optimizer"] == {"$ref": "#/$defs/part-of-optimizers"}
    ops = {choice["properties"]["use"].get("const"): choice for choice in schema["$defs"]["gradient_ops"]["oneOf"]}
    assert None in ops  # any ./file.py:Object
    assert "sum" in ops or "sum" in schema["$comment"]


def test_json_schema_notes_what_cannot_be_imported(tmp_path, monkeypatch) -> None:
    from core.registry import Registry

    info = tmp_path / "fake_gone-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-gone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dualloop.samplers]\nfake.gone = no_such_module_anywhere:Gone\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    schema = json_schema(Registry())
    assert "samplers/fake.gone" in schema["$comment"]
    assert "fake.gone" not in str(schema["$defs"])
