"""Base recipes, overrides, defaults, interpolation, and the origin of every value."""

from __future__ import annotations

from core.recipe import check

CHILD = """\
base: r.yaml
name: child
loops:
  one:
    tasks:
      seg:
        sampler: {k: 9}
        losses: {mask: {use: "./parts.py:MyLoss", points: 3}}
"""


def child(folder, *overrides: str, text: str = CHILD):
    folder.write()
    return folder.load(*overrides, text=text, name="child.yaml")


def test_a_base_is_laid_under_the_recipe_and_origins_tell_both(folder) -> None:
    recipe = child(folder)
    assert check(recipe, folder.registry) == []
    task = ("loops", "one", "tasks", "seg")
    assert recipe.values["loops"]["one"]["tasks"]["seg"]["sampler"] == {"use": "./parts.py:MySampler", "k": 9}
    assert recipe.origin((*task, "sampler", "k")) == f"{folder.path}/child.yaml:7"
    assert recipe.origin((*task, "sampler", "use")) == f"{folder.path}/r.yaml:12"
    assert recipe.origin(("train", "updates")) == f"{folder.path}/r.yaml:23"
    assert recipe.origin(("train", "accumulate")) == "default"
    assert "base" not in recipe.values


def test_a_mapping_with_use_replaces_a_component_and_one_without_adjusts_it(folder) -> None:
    losses = child(folder).values["loops"]["one"]["tasks"]["seg"]["losses"]
    assert losses == {"mask": {"use": "./parts.py:MyLoss", "points": 3}}  # weight: 2 of the base is gone
    recipe = folder.load("loops.one.tasks.seg.losses.mask={weight: 5}", "gradient={use: sum}")
    assert recipe.values["loops"]["one"]["tasks"]["seg"]["losses"]["mask"] == {"use": "./parts.py:MyLoss", "weight": 5}
    assert recipe.values["gradient"] == {"use": "sum"}
    assert recipe.origin(("gradient", "use")) == "command line"


def test_a_chain_of_bases_is_a_fault(folder) -> None:
    folder.write("base: r.yaml\n", "middle.yaml")
    faults = check(child(folder, text=CHILD.replace("r.yaml", "middle.yaml")), folder.registry)
    assert "child.yaml:1: base: " in str(faults[0])
    assert "middle.yaml has a base of its own: chains of bases are not allowed" in str(faults[0])


def test_a_missing_base_is_a_fault(folder) -> None:
    faults = check(child(folder, text="base: gone.yaml\n"), folder.registry)
    assert "child.yaml:1: base: there is no file" in str(faults[0])


def test_a_fault_in_the_base_is_located_there(folder) -> None:
    recipe = child(folder)
    (folder.path / "r.yaml").write_text((folder.path / "r.yaml").read_text().replace("batch_size: 3", "batch_size: x"))
    recipe = folder.load(text=CHILD, name="child.yaml")
    (fault,) = check(recipe, folder.registry)
    assert str(fault) == f"{folder.path}/r.yaml:23: train.batch_size: expected an integer, got 'x' (text)"


def test_overrides_set_values_lists_items_and_new_keys(folder) -> None:
    recipe = folder.load("train.updates=7", "launch.processes=2", "schedule.order=[one]", "schedule.order.0=one", "name=other name")
    assert check(recipe, folder.registry) == []
    assert recipe.values["train"]["updates"] == 7
    assert recipe.values["launch"].items() >= {"processes": 2, "strategy": "single", "zero_stage": 2, "device": "auto"}.items()
    assert recipe.values["name"] == "other name"
    assert recipe.origin(("train", "updates")) == recipe.origin(("launch", "processes")) == "command line"
    assert recipe.origin(("launch", "device")) == "default"


def test_null_takes_a_named_entry_away(folder) -> None:
    recipe = folder.load("track={a: {use: nothing}}", "track.a=null", "loops.two={tasks: {}}", "loops.two=null")
    assert recipe.values["track"] == {}
    assert list(recipe.values["loops"]) == ["one"]


def test_defaults_name_every_loop_in_the_order_of_the_recipe(folder) -> None:
    text = (folder.write()).read_text().replace('schedule: {use: "./parts.py:Order"}\n', "")
    assert folder.load(text=text).values["schedule"] == {"use": "alternate", "order": ["one"]}


def test_interpolation_of_values_mappings_and_defaults(folder) -> None:
    recipe = folder.load("data.more={sub: {a: 1, b: '${train.accumulate}'}}", "data.copy=${data.more.sub}", "data.literal=\\${x}")
    assert recipe.faults == []
    assert recipe.values["data"]["copy"] == {"a": 1, "b": 1}
    assert recipe.values["data"]["literal"] == "${x}"
    assert recipe.values["model"]["checkpoint"] == "/nowhere/model"
    assert recipe.origin(("data", "copy", "a")) == "command line"  # of the key around it


def test_a_default_in_the_interpolation_stands_for_an_unset_variable(folder, monkeypatch) -> None:
    monkeypatch.delenv("DUALLOOP_TEST_UNSET", raising=False)
    assert folder.load("data.root=${oc.env:DUALLOOP_TEST_UNSET,/some/where}").values["data"]["root"] == "/some/where"
