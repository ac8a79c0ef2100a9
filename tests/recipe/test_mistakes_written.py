"""What people write: which of it is taken, as what, and what is said of the rest. In-process; nothing is built."""

# ruff: noqa: E501  (a table of sentences)
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import RECIPE

from core.commands.components import main as components
from core.commands.run import main
from core.recipe import check, load, resolved_yaml
from core.recipe.foreign import NAMES, key_of
from core.recipe.reader import compose
from core.recipe.scalars import PLAIN, Dumper, plain_value

DOCS = Path(__file__).parents[2] / "docs"
K = "loops.one.tasks.seg.sampler.k"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 0.0001), ("1e5", 100000.0), ("1.e-3", 0.001), (".5", 0.5), ("5.", 5.0), ("-1E+3", -1000.0), ("1.0e-3", 0.001), ("007.5", 7.5),
        ("1_000", 1000), ("1_000.5", 1000.5), ("0x10", 16), ("0o17", 15), ("+5", 5), ("-0", 0), (".inf", float("inf")), ("-.Inf", float("-inf")),
        ("yes", True), ("Off", False), ("true", True), ("null", None), ("~", None), ("", None),
        ("0123", "0123"), ("08", "08"), ("12:30", "12:30"), ("1:2:3", "1:2:3"), ("2024-01-01", "2024-01-01"), ("0b1", "0b1"), ("10_00", "10_00"),
        ("1e400", "1e400"), ("1e-400", "1e-400"), ("1.2.3", "1.2.3"), ("1e", "1e"), ("e5", "e5"), ("nO", "nO"), ("=", "="), ("1,5", "1,5"),
    ],
)  # fmt: skip
def test_an_unquoted_word_means_one_thing_in_files_and_on_the_command_line(folder, written: str, value: object) -> None:
    text = RECIPE.replace("data: {root: /nowhere}", f"data:\n  root: /nowhere\n  x: {written}  # a comment")
    for recipe in (folder.load(text=text), folder.load(f"data.x={written}")):
        assert (type(recipe.values["data"]["x"]), recipe.values["data"]["x"]) == (type(value), value)


@pytest.mark.parametrize(
    "text", ["1e5", "1e-4", "12:30", "0o17", "0123", "yes", ".5", "1_000", "1e400", "~", "", "<<", "a: b", "x #3", "007.5"]
)
def test_text_is_written_so_that_it_is_read_as_text_again(folder, text: str) -> None:
    written = yaml.dump(text, None, Dumper, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
    node = compose(written)
    assert isinstance(node, yaml.ScalarNode)
    assert (plain_value(node.value) if node.tag == PLAIN else node.value) == text
    kept = resolved_yaml(folder.load(text=RECIPE.replace("root: /nowhere", f"root: /nowhere, x: {json.dumps(text)}")))
    assert load(folder.write(kept, "kept.yaml")).values["data"]["x"] == text


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("output=my runs #3", "output", "my runs #3"),
        ("output=#3", "output", "#3"),
        ("output=[a]", "output", "[a]"),
        ("output=a: b: c", "output", "a: b: c"),
        ("output=@x", "output", "@x"),
        ("output='a'", "output", "a"),
        ("output=~/runs", "output", str(Path.home() / "runs")),
        ("name=yes", "name", "yes"),
        ("name=123", "name", "123"),
        ("name=1e5", "name", "1e5"),
        ("name=0123", "name", "0123"),
        ("name=12:30", "name", "12:30"),
        ("name=2024-01-01", "name", "2024-01-01"),
        ("start_from=123", "start_from", "123"),
        ("start_from=null", "start_from", None),
        ("start_from=~/run", "start_from", str(Path.home() / "run")),
    ],
)
def test_a_text_is_taken_as_it_is_typed(folder, override: str, key: str, value: object) -> None:
    recipe = folder.load(override)
    assert check(recipe, folder.registry) == []
    assert recipe.values[key] == value
    again = load(folder.write(resolved_yaml(recipe), "again.yaml"))  # what a run keeps says the same
    assert check(again, folder.registry) == []
    assert again.values[key] == value


def test_a_number_stays_a_number_where_number_or_text_may_stand_and_the_last_word_counts(folder) -> None:
    assert folder.faults("optimizer.name=3") == []
    recipe = folder.load("optimizer.name=3", "name=123", "name=abc")
    assert check(recipe, folder.registry) == []
    assert (recipe.values["optimizer"]["name"], recipe.values["name"]) == (3, "abc")


OVERRIDES = [
    # numbers
    (["seed=0123"], ["seed: expected an integer, got '0123' (text): a number has no zeros in front, write 123"]),
    (["seed=-08"], ["seed: expected an integer, got '-08' (text): a number has no zeros in front, write -8"]),
    (["seed=12:30"], ["seed: expected an integer, got '12:30' (text): a time or a ratio is no number, write out its value"]),
    (["train.updates=1e5"], ["train.updates: expected an integer, got 100000.0 (a float): write 100000"]),
    (["optimizer.lr=1,5"], ["optimizer.lr: expected a number, got '1,5' (text): write 1.5, with a point"]),
    (["optimizer.lr=1e-400"], ["optimizer.lr: expected a number, got '1e-400' (text): this is beyond what a float can hold"]),
    (["optimizer.lr=1 #x"], ["optimizer.lr: expected a number, got '1 #x' (text)"]),
    (["optimizer.lr=yes"], ["optimizer.lr: expected a number, got true (a boolean)"]),
    (["optimizer.lr=["], ["optimizer.lr: '[' is not YAML: expected the node content, but found '<stream end>'"]),
    (["data.x=@a"], ["data.x: '@a' is not YAML: found character '@' that cannot start any token: put text that begins so in quotes"]),
    # names
    (["name=a/b"], ["name: a name must not have / in it"]),
    (["name=a\\b"], ["name: a name must not have \\ in it"]),
    (["name=a[1]"], ["name: a name must not have [ in it"]),
    (["name=.a"], ["name: a name must not begin with . or - or ~, nor end with a point"]),
    (["name=-a"], ["name: a name must not begin with . or - or ~"]),
    (["name='a '"], ["name: a name must not begin or end with a space"]),
    (["name=''"], ["name: a name must not be empty"]),
    (["name=a\tb"], ["name: a name must not have the control character '\\t' in it"]),
    (["name=" + "a" * 101], ["name: a name has at most 100 letters, this one has 101"]),
    (["name=" + "名" * 80], ["name: a name has at most 100 letters, this one has 80 (240 bytes)"]),
    (["name="], ["name: expected text, got null"]),
    (["evaluate={a/b: {use: ./parts.py:Any}}"], ["evaluate.a/b: a name must not have / in it"]),
    # shapes
    (["model.train=lora"], ["model.train: expected a list, got 'lora' (text): write [lora]"]),
    (["model.train=lora,projector"], ["model.train: expected a list, got 'lora,projector' (text): write [lora, projector]"]),
    (["evaluate=[a]"], ["evaluate: expected a mapping, got a list: write NAME: {use: COMPONENT, ...}"]),
    (["track=[a]"], ["track: expected a mapping, got a list: write NAME: {use: COMPONENT, ...}"]),
    (["data=[a]"], ["data: expected a mapping, got a list: write NAME: VALUE"]),
    (["loops=[a]"], ["loops: expected a mapping, got a list: write NAME: {tasks: ...}"]),
    (["loops.one.tasks.seg.data=[a]"], ["data: expected a mapping, got a list: write NAME: {use: COMPONENT, ...}"]),
    # words that belong together
    (["train.updates", "4"], ["'train.updates 4' is no override: write train.updates=4, as one word"]),
    (["train.updates", "=", "4"], ["'train.updates = 4' is no override: write train.updates=4, as one word"]),
    (["train.updates=", "4"], ["'train.updates= 4' is no override: write train.updates=4, as one word"]),
    (["name=my", "run"], ["'run' is no override: write key.path=value; if it belongs to the word before, put both in quotes: 'name=my run'"]),
    # names of other trainers, and words that are meant
    (["learning_rate=1e-4"], ["learning_rate: unknown key 'learning_rate': here it is optimizer.lr"]),
    (["optimizer.learning-rate=1"], ["optimizer.learning-rate: unknown key 'learning-rate': here it is optimizer.lr"]),
    (["max_steps=4"], ["max_steps: unknown key 'max_steps': here it is train.updates"]),
    (["num_train_epochs=3"], ["unknown key 'num_train_epochs': here it is train.updates, in optimizer steps"]),
    (["train.fp16=true"], ["unknown key 'fp16': here it is train.precision, e.g. bf16; there is no fp16"]),
    (["logging_steps=1"], ["unknown key 'logging_steps': every update is logged"]),
    (["warmup_ratio=0.1"], ["unknown key 'warmup_ratio'; this place takes"]),  # this optimizer has no warmup: nothing is promised
    (["launch.device=gpu"], ["launch.device: expected 'auto' or 'cpu' or 'cuda', got 'gpu' (text): did you mean 'cuda'?"]),
    (["train.precision=fp16"], ["got 'fp16' (text): did you mean 'bf16'?"]),
    (["train.precision=float32"], ["got 'float32' (text): did you mean 'fp32'?"]),
    # interpolation: one fault at the root
    (["data.root=${data.rooot}"], ["data.root: '${data.rooot}' refers to 'data.rooot', which is not given"]),
    (["data.root=${data.world}", "data.worlds=a"], ["'${data.world}' refers to 'data.world', which is not given, did you mean 'data.worlds'?"]),
    (["data.root=${oc.decode:'['}"], ["data.root: \"${oc.decode:'['}\" cannot be resolved"]),
    (["data.root=???", "data.b=${data.root}/x", "data.c=${data.b}/y"], ["data.root: a value must be given here"]),
    (["data.b=${data.c}", "data.c=${data.b}"], ["data.b: '${data.c}' cannot be resolved: Rec", "data.c: '${data.b}' cannot be resolved: Rec"]),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "messages"), OVERRIDES, ids=[" ".join(overrides)[:40] for overrides, _ in OVERRIDES])
def test_a_mistake_on_the_command_line_is_one_clear_fault(folder, overrides: list[str], messages: list[str]) -> None:
    faults = folder.faults(*overrides)
    assert len(faults) == len(messages), faults
    for fault, message in zip(faults, messages, strict=True):
        assert fault.startswith("command line: ")
        assert message in fault


FILES = [
    ("name: small", "name: yes", "r.yaml:2: name: expected text, got true (a boolean): put it in quotes (without them yes, no, on and off"),
    ("name: small", "name: 12", "r.yaml:2: name: expected text, got 12 (an integer): put it in quotes"),
    ("name: small", "name: [a: b: c", "r.yaml:2: this is not YAML: "),
    (
        "name: small",
        "name: a: b",
        "r.yaml:2: this is not YAML: mapping values are not allowed here: text that contains ': ' stands in quotes",
    ),
    ("name: small", "name: *x", "r.yaml:2: this is not YAML: found undefined alias 'x': put text that begins with * in quotes"),
    ("name: small", "name: !!int 012", "r.yaml:2: name: '012' cannot be read: the tag tag:yaml.org,2002:int means nothing in a recipe"),
    (
        "name: small",
        "name: small\n\tseed: 1",
        "r.yaml:3: this is not YAML: found character '\\t' that cannot start any token: indent with spaces",
    ),
    ("{root: /nowhere}", "!!set {root: /nowhere}", "r.yaml:25: data: this cannot be read: the tag tag:yaml.org,2002:set means nothing"),
    ("seed: 1", "seed: 010", "r.yaml:3: seed: expected an integer, got '010' (text): a number has no zeros in front, write 10"),
    ("k: 4", "k: '4'", "r.yaml:13: loops.one.tasks.seg.sampler.k: expected an integer, got '4' (text): take the quotes off"),
    ("      seg:", "      a/b:", "r.yaml:9: loops.one.tasks.a/b: a name must not have / in it"),
    ("recipe: 1\n", "recipe: 1\nmax_steps: 4\n", "r.yaml:2: max_steps: unknown key 'max_steps': here it is train.updates"),
]


@pytest.mark.parametrize(("old", "new", "message"), FILES, ids=[new.strip()[:40] for _, new, _ in FILES])
def test_a_mistake_in_a_file_is_told_with_its_line(folder, old: str, new: str, message: str) -> None:
    faults = folder.edited(old, new)
    assert faults[0].startswith(message), faults


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: gone.yaml\nnam: ${data.x}\n", "child.yaml:1: base: there is no file gone.yaml"),
        ("base: r.yml\nnam: x\n", "child.yaml:1: base: there is no file r.yml, did you mean 'r.yaml'?"),
        ("base: .\nnam: x\n", "is a folder, not a recipe"),
        ("base: [r.yaml]\nnam: x\n", "child.yaml:1: base: expected the path of one recipe, relative to this file"),
        ("base:\nnam: x\n", "child.yaml:1: base: expected the path of one recipe, relative to this file"),
    ],
)
def test_without_its_base_a_recipe_has_that_fault_alone(folder, text: str, message: str) -> None:
    folder.write()
    (fault,) = check(folder.load(text=text, name="child.yaml"), folder.registry)
    assert message in str(fault).replace(f"{folder.path}/", "")


def test_home_is_meant_by_a_tilde_wherever_a_path_is(folder, monkeypatch) -> None:
    folder.write()
    folder.write("base: ~/r.yaml\nname: child\ndata: {root: ~/world}\n", "child.yaml")
    monkeypatch.setenv("HOME", str(folder.path))
    recipe = load("~/child.yaml", ["output=~/runs"])
    assert check(recipe, folder.registry) == []
    assert recipe.values["output"] == f"{folder.path}/runs"
    for override in ("output=~no-such-user/x", "data.root=~no-such-user"):
        faults = folder.faults(override)
        assert all("there is no home folder of that name; write ./~no-such-user" in fault for fault in faults)
        assert faults


CHECKPOINT = "model.checkpoint=${oc.env:DUALLOOP_CHECKPOINT%s}"


@pytest.mark.parametrize(
    ("default", "exported", "fault", "note"),
    [
        ("", "DUALLOOP_CHEKPOINT", "DUALLOOP_CHECKPOINT is not set, but DUALLOOP_CHEKPOINT is, correct one of the two names", ""),
        (",/gone/x", "DUALLOOP_CHEKPOINT", "but DUALLOOP_CHEKPOINT is; the default gives /gone/x, which does not exist: correct one", ""),
        (",/", "DUALLOOP_CHEKPOINT", "", "is not set, but DUALLOOP_CHEKPOINT is: the default '/' is used"),
        (",name", "DUALLOOP_CHECKPOINTS", "", "is not set, but DUALLOOP_CHECKPOINTS is: the default 'name' is used"),
        ("", "DUALLOOP_CACHE_ROOT", "DUALLOOP_CHECKPOINT is not set: set it, or give a default: ${oc.env:DUALLOOP_CHECKPOINT,DEFAULT}", ""),
        (",/gone/x", "DUALLOOP_CACHE_ROOT", "", ""),
        (",/gone/x", "DUALLOOP_CHECKPOINT2", "", ""),  # one of a row of names
        (",/gone/x", "ALLOOP_CHECKPOINT", "", ""),  # does not begin alike
    ],
)
def test_a_variable_that_is_nearly_set_is_told_by_both_names(
    folder, monkeypatch, default: str, exported: str, fault: str, note: str
) -> None:
    monkeypatch.delenv("DUALLOOP_CHECKPOINT", raising=False)
    monkeypatch.setenv(exported, "/tmp")
    recipe = folder.load(CHECKPOINT % default)
    faults = [str(one) for one in check(recipe, folder.registry)]
    assert len(faults) == bool(fault)
    assert all(fault in one for one in faults)
    assert len(recipe.notes) == bool(note)
    assert all(note in one for one in recipe.notes)


def test_a_variable_that_the_recipe_reads_itself_is_no_near_miss(folder, monkeypatch) -> None:
    monkeypatch.setenv("DUALLOOP_CHECKPOINTS", "/tmp")
    recipe = folder.load(CHECKPOINT % ",/gone/x", "data.more=${oc.env:DUALLOOP_CHECKPOINTS}")
    assert (check(recipe, folder.registry), recipe.notes) == ([], [])


COMMANDS = [
    (["{recipe}", "--train.updates=4"], "there is no option --train.updates: keys of a recipe are given without dashes, write train.updates=4"),
    (["{recipe}", "--train.updates", "4"], "without dashes, write train.updates=4"),
    (["{recipe}", "--seed", "4"], "without dashes, write seed=4"),
    (["{recipe}", "--learning_rate=1e-4"], "there is no option --learning_rate: keys of a recipe are given without dashes, write optimizer.lr=1e-4"),
    (["{recipe}", "--chek"], "there is no option --chek: did you mean --check?"),
    (["{recipe}", "--frobnicate"], "there is no option --frobnicate: --help shows those that there are"),
    (["{folder}/r.yml"], "r.yml cannot be read: No such file or directory; did you mean {folder}/r.yaml?"),
    (["{folder}"], "{folder} is a folder, and a recipe is a YAML file: in it are r.yaml"),
    (["{folder}/run"], "it is a run, which --resume {folder}/run goes on with"),
    (["{folder}/dual_loop_tiny.yaml"], "cannot be read: No such file or directory; did you mean dual_loop_tiny?"),
    (["dual_loop_tinny"], "there is no recipe 'dual_loop_tinny', neither a file nor one that comes with dualloop: did you mean 'dual_loop_tiny'?"),
    (["--resume", "{folder}"], "nothing to resume: {folder} is no run folder (no recipe.json in it); the newest run in it is {folder}/run"),
    (["--resume", "{folder}/rum"], "nothing to resume: no run folder {folder}/rum; did you mean {folder}/run?"),
    (["--resume", "{folder}/run/recipe.json"], "this file is neither a run folder nor a recipe, which is a .yaml file"),
    (["--resume", "{folder}/run/checkpoints"], "it lies in the run {folder}/run: name that folder"),
    (["--resume", "runs/nope", "train.updates=9"], "nothing to resume: no run folder runs/nope; run without --resume first"),
    (["train.updates=9"], "name a recipe: a YAML file, or one that comes with dualloop: dual_loop_1gpu"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), COMMANDS, ids=[" ".join(words)[:40] for words, _ in COMMANDS])
def test_a_mistaken_command_ends_with_2_and_one_sentence(folder, capsys, words: list[str], message: str) -> None:
    recipe = folder.write()
    (folder.path / "run" / "checkpoints").mkdir(parents=True)
    (folder.path / "run" / "recipe.json").write_text("{}")
    assert main([word.format(recipe=recipe, folder=folder.path) for word in words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert message.format(folder=folder.path) in shown.err


def test_a_missing_path_is_told_once_with_what_belongs_there_and_how_it_is_made(folder, capsys) -> None:
    said = "Pictures.\n\nLayout: ``{root}/*.jpg``, and\n``{root}/*.json``. More.\n"
    (folder.path / "laid.py").write_text(f'"""{said}"""\nfrom pathlib import Path\n\ndef source(*, root: Path): ...\n')
    text = "#   make-world --into /nowhere/a\n# about /nowhere/a\n" + RECIPE.replace("./parts.py:source", "./laid.py:source")
    assert main([str(folder.write(text)), "--check"]) == 0
    shown = capsys.readouterr()
    assert "/nowhere" not in shown.out
    assert [line.replace(f"{folder.path}/", "") for line in shown.err.splitlines()] == [
        "warning: r.yaml:6: model.checkpoint: /nowhere/model does not exist",
        "warning: r.yaml:19: loops.one.tasks.seg.data.a.root: /nowhere/a does not exist; Layout: {root}/*.jpg, and {root}/*.json",
        "warning: r.yaml: its first lines say how to make what is missing: make-world --into /nowhere/a",
    ]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("train", "train is a section of recipes, not a component; its keys:\n  updates "),
        ("train.updates", "train.updates  int >= 1, required; optimizer steps"),
        ("seed", "seed is a key of recipes, not a component: of the samples' order"),
        ("track", "  trackers: use: NAME chooses one; python -m core.components list trackers shows them"),
    ],
)
def test_explain_knows_the_sections_of_recipes(capsys, asked: str, shown: str) -> None:
    assert components(["explain", asked]) == 0
    assert shown in capsys.readouterr().out


def test_explain_of_what_is_neither_component_nor_key_is_refused(capsys) -> None:
    assert components(["explain", "train.nothing"]) == 2
    assert "no component 'train.nothing'" in capsys.readouterr().err


def test_the_page_for_those_who_come_from_scripts_says_the_same_as_the_messages() -> None:
    rows = re.findall(r"^\| (`--.*?) \| `([\w.]+)=", (DOCS / "migration.md").read_text(encoding="utf-8"), re.MULTILINE)
    told = {flag: key for flags, key in rows for flag in re.findall(r"--(\w+)", flags) if key_of(flag)}
    assert len(told) > 15
    assert [flag for flag, key in told.items() if key != key_of(flag) and not key.startswith(f"{key_of(flag)}.")] == []


def test_no_word_stands_for_two_keys() -> None:
    words = [word for words in NAMES.values() for word in words.split()]
    assert len(words) == len(set(words))
