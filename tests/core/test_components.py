"""The components command, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import yaml

from core.commands import cli
from core.commands.cli import main as dualloop
from core.commands.components import main
from core.registry import Registry
from core.registry.described import first_sentence, sentence
from core.registry.explain import snippet
from core.registry.kinds import PLACES
from core.registry.registry import Entry


def test_list_and_help_import_no_torch() -> None:
    """In one process: what the first of them had imported would still be there after the last."""
    asked = [["list"], ["--help"], ["list", "--help"], ["explain", "--help"]]
    code = f"""
import contextlib, sys
from core.components import main
for arguments in {asked!r}:
    with contextlib.suppress(SystemExit):
        main(arguments)
    print('torch imported:', 'torch' in sys.modules, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, *helped = done.stdout.split("torch imported: False\n")
    assert "st_gumbel_topk" in listed
    assert [text.startswith("usage: python -m core.components") for text in helped] == [True, True, True, False]
    assert helped[-1] == ""


def test_list_of_one_kind(capsys) -> None:
    assert main(["list", "samplers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "name", "distribution", "what"]
    assert all(line.startswith("samplers") for line in lines[1:])


def test_list_as_json(capsys) -> None:
    assert main(["list", "gradient_ops", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {"kind", "name", "distribution", "version", "target"} == set(entries[0])
    assert "sum" in {entry["name"] for entry in entries}


def test_unknown_kind_is_one_sentence_and_exit_2(capsys) -> None:
    assert main(["list", "smaplers"]) == 2
    assert capsys.readouterr().err == "error: 'smaplers' is no kind: did you mean 'samplers'?\n"


def test_a_kind_may_be_said_in_the_singular(capsys) -> None:
    assert main(["list", "gradient_ops"]) == main(["list", "gradient_op"]) == 0
    first, second = capsys.readouterr().out.split("kind  ")[1:]
    assert first == second
    assert main(["explain", "gradient_op/sum"]) == 0
    assert capsys.readouterr().out.startswith("gradient_ops/sum\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-m", "core.components", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 0


EXPLAINED = '''
from __future__ import annotations
from typing import Literal, NotRequired, TypedDict
from core.contracts import MaskLoss, Sampler

class Losses(TypedDict):
    mask: MaskLoss
    extra: NotRequired[MaskLoss]

class MyLoop:
    """Does the thing.

    At length.
    """

    needs = frozenset()

    def __init__(self, *, sampler: Sampler, losses: Losses, mode: Literal["a", "b"] = "a", rate: float | None = None) -> None: ...
    def counts(self, model, batch, noise): ...
    def __call__(self, model, teacher, batch, noise): ...
'''


def test_explain_shows_signature_description_and_place(tmp_path, capsys) -> None:
    (tmp_path / "mine.py").write_text(EXPLAINED)
    assert dualloop(["components", "explain", f"loops/{tmp_path}/mine.py:MyLoop"]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "distribution local file",
        f"file {tmp_path}/mine.py:10",
        "sampler samplers component, required",
        "mask losses component, required",
        "extra losses component, optional",
        "mode 'a' | 'b', default 'a'",
        "rate float | null, default None",
        "Does the thing.",
        "At length.",
    ):
        assert line in shown


def test_explain_of_a_name_in_several_kinds_asks_which(capsys) -> None:
    assert main(["explain", "refcoco"]) == 2
    assert "write datasets/refcoco or evaluators/refcoco" in capsys.readouterr().err
    assert main(["explain", "no_such_thing_at_all"]) == 2
    assert "no component 'no_such_thing_at_all'" in capsys.readouterr().err


def test_dualloop_names_its_commands(capsys) -> None:
    assert dualloop(["--help"]) == 0
    assert "components" in capsys.readouterr().out
    assert dualloop(["componets"]) == 2


def test_a_further_command_that_cannot_be_loaded_is_one_sentence(capsys, monkeypatch) -> None:
    broken = EntryPoint("sick", "no_such_module:main", cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda group: [broken])
    assert cli.main(["sick"]) == 2
    assert "the command 'sick' (no_such_module:main) cannot be loaded: ModuleNotFoundError" in capsys.readouterr().err
    assert cli.main(["--help"]) == 0
    assert "sick         cannot be loaded: ModuleNotFoundError" in capsys.readouterr().out


def test_list_says_what_each_does_without_importing_it(capsys, tmp_path, monkeypatch) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        "gradient_ops" in line and line.endswith("PCGrad: every loop's gradient gives up the parts that conflict with the others")
        for line in lines
    )
    assert all(len(line.split(None, 4)) == 5 for line in lines[1:] if " dualloop " in line), "each built-in one has a sentence"
    package = tmp_path / "heavy_thing"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "inner" / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "inner" / "two.py").write_text('"""Both."""\ndef one():\n    """First. More."""\ndef two():\n    pass\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    said = {
        name: sentence(Entry("losses", name, "x", "1", f"heavy_thing.{name}"))
        for name in ("inner.two:one", "inner.two:two", "gone:x", "inner:x")
    }
    assert said == {"inner.two:one": "First", "inner.two:two": "Both", "gone:x": "", "inner:x": ""}
    assert sentence(Entry("losses", "x", "x", "1", "no_such_package_at_all:x")) == ""


@pytest.mark.parametrize(
    ("text", "sentence_"),
    [
        ("RefCOCO, e.g. RefCOCO+.", "RefCOCO, e.g. RefCOCO+"),
        ("One line\nand its rest. Then more.", "One line and its rest"),
        ("With ``marks``.\n\nAnother paragraph.", "With marks"),
    ],
)
def test_the_first_sentence(text: str, sentence_: str) -> None:
    assert first_sentence(text) == sentence_


def test_explain_shows_lines_to_paste_and_what_is_said_of_each_key(capsys) -> None:
    assert main(["explain", "pcgrad_orthogonal"]) == 0
    said = capsys.readouterr().out
    assert "anchor  str, required: name of the loop whose gradient is kept whole\n" in said
    pasted = said.split("  in a recipe\n")[1].split("\n\n")[0]
    assert yaml.safe_load(pasted) == {"gradient": {"use": "pcgrad_orthogonal", "anchor": "..."}}
    assert "# scope: " in pasted
    assert main(["explain", "mask_caption_mask"]) == 0
    said = capsys.readouterr().out
    task = yaml.safe_load(said.split("  in a recipe\n")[1].split("\n\n")[0])["loops"]["LOOP"]["tasks"]["TASK"]
    assert task["use"] == "mask_caption_mask"
    assert task["losses"]["mask"] == {"use": "..."}


def test_the_lines_of_every_component_are_yaml_with_all_that_is_required() -> None:
    registry = Registry()
    for kind in ("samplers", "losses", "loops", "gradient_ops", "schedules", "optimizers", "teachers", "trackers"):
        for entry in registry.list(kind):
            component = registry.get(kind, entry.name)
            found = yaml.safe_load("\n".join(snippet(component)))
            for place in PLACES[kind].split("."):
                found = found[place]
            assert found.keys() - {"use", "data"} == {key.name for key in component.parameters if key.required}, entry.name
