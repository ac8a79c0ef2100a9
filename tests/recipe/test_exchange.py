"""``a.b.use=other`` on the command line: the file's keys that the other component does not take are left out, and said."""

from __future__ import annotations

import pytest

from core.commands import run
from core.recipe import build, check, resolved_values

SEG = "loops.one.tasks.seg"


def checked(folder, *overrides: str):
    recipe = folder.load(*overrides)
    assert check(recipe, folder.registry) == []
    return recipe


def test_a_foreign_key_of_the_file_is_left_out_with_a_note(folder) -> None:
    recipe = checked(folder, "gradient.use=./parts.py:Any")
    assert recipe.notes == [f"{folder.path}/r.yaml:18: gradient.anchor is left out: ./parts.py:Any does not take it"]
    assert recipe.values["gradient"] == resolved_values(recipe, folder.registry)["gradient"] == {"use": "./parts.py:Any"}
    assert vars(build(recipe, ("gradient",), folder.registry)) == {}


def test_keys_that_both_take_stay(folder) -> None:
    assert checked(folder, "gradient.use=./parts.py:Any", "gradient.use=./parts.py:Surgery").notes == []
    recipe = checked(folder, f"{SEG}.losses.mask.use=./parts.py:MyLoss")
    assert recipe.values["loops"]["one"]["tasks"]["seg"]["losses"]["mask"]["weight"] == 2


def test_the_engines_keys_stay_and_a_mapping_goes_as_a_whole(folder) -> None:
    recipe = checked(folder, f"{SEG}.use=./parts.py:Any")
    assert set(recipe.values["loops"]["one"]["tasks"]["seg"]) == {"use", "data"}
    assert [note.split(": ")[1] for note in recipe.notes] == [f"{SEG}.{key} is left out" for key in ("sampler", "losses")]


def test_a_key_in_an_optional_place_is_left_out_too(folder) -> None:
    text = folder.write().read_text() + 'teacher: {use: "./parts.py:Surgery", anchor: one}\n'
    recipe = folder.load("teacher.use=./parts.py:Any", text=text)
    assert check(recipe, folder.registry) == []
    assert recipe.values["teacher"] == {"use": "./parts.py:Any"}


def test_a_left_out_key_needs_no_value(folder) -> None:
    text = folder.write().read_text().replace("anchor: one", 'anchor: "${oc.env:DUALLOOP_TEST_UNSET}"')
    recipe = folder.load("gradient.use=./parts.py:Any", text=text)
    assert check(recipe, folder.registry) == []


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["gradient.use=./parts.py:Any", "gradient.anchor=one"], "command line: gradient.anchor: unknown key 'anchor'"),
        (["gradient.anchor=one", "gradient.use=./parts.py:Any"], "command line: gradient.anchor: unknown key 'anchor'"),
        ([f"{SEG}.losses.mask.points=3", f"{SEG}.use=./parts.py:Any"], f"r.yaml:14: {SEG}.losses: unknown key 'losses'"),
        (["gradient.use=./parts.py:Nothing"], "command line: gradient.use: "),
    ],
)
def test_what_the_command_line_gives_must_fit(folder, overrides: list[str], fault: str) -> None:
    assert any(line.startswith(fault) for line in folder.faults(*overrides)), folder.faults(*overrides)


def test_a_component_that_is_not_exchanged_takes_no_foreign_key(folder) -> None:
    text = folder.write().read_text().replace("anchor: one", "anchor: one, anker: two")
    for overrides in ([], ["gradient.use=./parts.py:Surgery"]):
        assert "unknown key 'anker'" in folder.faults(*overrides, text=text)[0]


def test_the_command_says_it_once_also_for_its_workers(folder, capsys, monkeypatch) -> None:
    command = [str(folder.write()), "--check", "gradient.use=./parts.py:Any"]
    assert run.main(command) == 0
    assert capsys.readouterr().err.count("note: ") == 1
    monkeypatch.setenv("RANK", "1")
    assert run.main(command) == 0
    assert "note: " not in capsys.readouterr().err
