"""Every kind of fault with its line, key path and hint; all faults in one pass."""

from __future__ import annotations

import pytest
from conftest import RECIPE

from core.contracts import UserError
from core.recipe import load

UNSET = "DUALLOOP_TEST_UNSET"


def test_a_sound_recipe_has_no_fault(folder) -> None:
    assert folder.faults() == []


TEN = """\
recipe: 1
nam: ten
seed: true
model: {use: "./parts.py:Model", checkpoint: "${oc.env:DUALLOOP_TEST_UNSET}"}
loops:
  one:
    tasks:
      seg:
        use: ./parts.py:MyLoop
        k: 512
        caption_length: 1.7
        sampler:
          use: ./parts.py:MySampler
          k: 4
        losses:
          mask: {use: bce_dise}
        data:
          a: {use: "./parts.py:source", root: /a, split: trian}
gradient: {use: "./parts.py:Surgery", anchor: won}
optimizer: {use: "./parts.py:Optimizer", lr: fast}
train: {updates: 2, batch_size: 3}
checkpoint: {every: 1}
train: {updates: 4}
"""


def test_ten_seeded_faults_are_reported_in_one_pass(folder, monkeypatch) -> None:
    monkeypatch.delenv(UNSET, raising=False)
    task = "loops.one.tasks.seg"
    assert folder.faults(text=TEN) == [
        "r.yaml:1: missing key 'name' (str)",
        "r.yaml:2: nam: unknown key 'nam', did you mean 'name'?",
        "r.yaml:3: seed: expected an integer, got true (a boolean)",
        f"r.yaml:4: model.checkpoint: the environment variable {UNSET} is not set: set it, or give a default: ${{oc.env:{UNSET},DEFAULT}}",
        f"r.yaml:10: {task}.k: unknown key 'k'; 'k' belongs to {task}.sampler",
        f"r.yaml:11: {task}.caption_length: expected an integer, got 1.7 (a float)",
        f"r.yaml:16: {task}.losses.mask.use: no component 'bce_dise' in losses: did you mean 'bce_dice'?",
        f"r.yaml:18: {task}.data.a.split: expected 'train' or 'val', got 'trian' (text): did you mean 'train'?",
        "r.yaml:19: gradient.anchor: there is no loop 'won': did you mean 'one'?",
        "r.yaml:20: optimizer.lr: expected a number, got 'fast' (text)",
        "r.yaml:23: train: duplicate key 'train': it is already given at r.yaml:21",
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        # places
        (
            "  lr: 1.0e-3\n",
            "  lr: 1.0e-3\n  batch_size: 4\n",
            "r.yaml:23: optimizer.batch_size: unknown key 'batch_size'; 'batch_size' belongs to train",
        ),
        ("seed: 1\n", "seed: 1\nlr: 1.0\n", "r.yaml:4: lr: unknown key 'lr'; 'lr' belongs to optimizer"),
        (
            "          k: 4\n",
            "          k: 4\n          seed: 4\n",
            "r.yaml:14: loops.one.tasks.seg.sampler.seed: unknown key 'seed'; 'seed' belongs to the top level",
        ),
        (
            "mask: {use",
            "maske: {use: x}\n          mask: {use",
            "r.yaml:15: loops.one.tasks.seg.losses.maske: unknown key 'maske', did you mean 'mask'?",
        ),
        # types: nothing is coerced
        ("k: 4", "k: true", "r.yaml:13: loops.one.tasks.seg.sampler.k: expected an integer, got true (a boolean)"),
        ("k: 4", "k: 4.0", "r.yaml:13: loops.one.tasks.seg.sampler.k: expected an integer, got 4.0 (a float)"),
        ("k: 4", "k: '4'", "r.yaml:13: loops.one.tasks.seg.sampler.k: expected an integer, got '4' (text): take the quotes off"),
        ("k: 4", "k:", "r.yaml:13: loops.one.tasks.seg.sampler.k: expected an integer, got null"),
        ("lr: 1.0e-3", "lr: '2.0e-5'", "r.yaml:22: optimizer.lr: expected a number, got '2.0e-5' (text): take the quotes off"),
        ("lr: 1.0e-3", "lr: false", "r.yaml:22: optimizer.lr: expected a number, got false (a boolean)"),
        (
            'root: "${data.root}/a"}',
            "root: /a, split: nosuch}",
            "r.yaml:17: loops.one.tasks.seg.data.a.split: expected 'train' or 'val', got 'nosuch' (text)",
        ),
        ("name: small", "name: 12", "r.yaml:2: name: expected text, got 12 (an integer): put it in quotes"),
        ("batch_size: 3", "batch_size: 0", "r.yaml:23: train.batch_size: expected a value >= 1, got 0 (an integer)"),
        ("recipe: 1", "recipe: 2", "r.yaml:1: recipe: expected 1, got 2 (an integer)"),
        ("recipe: 1", "recipe: true", "r.yaml:1: recipe: expected 1, got true (a boolean)"),
        ("lr: 1.0e-3", "lr: 1\n  name: [3]", "r.yaml:23: optimizer.name: expected str | int, got a list"),
        ("lr: 1.0e-3", "lr: 1\n  shape: {r: x}", "r.yaml:23: optimizer.shape.r: expected an integer, got 'x' (text)"),
        # shapes
        (
            'gradient: {use: "./parts.py:Surgery", anchor: one}',
            "gradient: sum",
            "r.yaml:18: gradient: expected a mapping with 'use' and the parameters of a component of gradient_ops, "
            "got 'sum' (text): write {use: sum}",
        ),
        (
            '{use: "./parts.py:Order"}',
            '{user: "./parts.py:Order"}',
            "r.yaml:19: schedule: missing key 'use': it names the component of schedules, did you mean it by 'user'?",
        ),
        (
            '{use: "./parts.py:Order"}',
            '{use: "./parts.py:Ordre"}',
            "r.yaml:19: schedule.use: ./parts.py:Ordre in schedules cannot be imported: its module has no 'Ordre', did you mean 'Order'?",
        ),
        (
            '{use: "./parts.py:Order"}',
            '{use: "./parts.py:Order", order: [[one]]}',
            "r.yaml:19: schedule.order[0]: expected text, got a list",
        ),
        (
            '          a: {use: "./parts.py:source", root: "${data.root}/a"}',
            "          {}",
            "r.yaml:16: loops.one.tasks.seg.data: expected at least one entry",
        ),
        ('model"}', 'model", lora: {alpha: 2, x: 1}}', "r.yaml:4: model.lora: missing key 'r' (int)"),
        (
            'model"}',
            'model", train: [projector, lara]}',
            "r.yaml:4: model.train[1]: expected 'projector' or 'lora', got 'lara' (text): did you mean 'lora'?",
        ),
        # what one part says of another
        ("anchor: one", "anchor: too", "r.yaml:18: gradient.anchor: there is no loop 'too': did you mean 'one'?"),
        (
            '{use: "./parts.py:Order"}',
            '{use: "./parts.py:Order", order: [one, tow]}',
            "r.yaml:19: schedule.order: there is no loop 'tow': did you mean 'one'?",
        ),
        # writing
        ("name: small", "name: small\n1: x", "r.yaml:3: '1' is no key of a recipe: keys are text, put it in quotes"),
        ("name: small", "name: !!python/object:os.system x", "r.yaml:2: name: 'x' cannot be read"),
        ("seed: 1", "seed: ???", "r.yaml:3: seed: a value must be given here"),
        (
            "seed: 1",
            "seed: ${data.roots}",
            "r.yaml:3: seed: '${data.roots}' refers to 'data.roots', which is not given, did you mean 'data.root'?",
        ),
        ("seed: 1", "seed: ${data.root", "r.yaml:3: seed: malformed interpolation '${data.root'"),
        ("seed: 1", "seed: ${seed}", "r.yaml:3: seed: '${seed}' cannot be resolved: Recursive interpolation detected"),
    ],
)
def test_a_fault_tells_place_and_remedy(folder, old: str, new: str, fault: str) -> None:
    faults = folder.edited(old, new)
    assert faults, "no fault was found"
    assert faults[0].startswith(fault)
    assert len(faults) <= 2


def test_an_integer_is_fine_where_a_float_is_asked_for(folder) -> None:
    assert folder.edited("lr: 1.0e-3", "lr: 1") == []


def test_text_from_the_environment_is_not_coerced(folder, monkeypatch) -> None:
    monkeypatch.setenv(UNSET, "3")
    (fault,) = folder.edited("k: 4", "k: ${oc.env:DUALLOOP_TEST_UNSET}")
    assert fault.endswith("got '3' (text): an environment variable is text, ${oc.decode:${oc.env:NAME}} reads it as a value")
    assert folder.edited("k: 4", "k: ${oc.decode:${oc.env:DUALLOOP_TEST_UNSET}}") == []


def test_an_unset_variable_is_one_fault_where_it_is_named(folder, monkeypatch) -> None:
    monkeypatch.delenv(UNSET, raising=False)
    (fault,) = folder.edited("{root: /nowhere}", "{root: '${oc.env:DUALLOOP_TEST_UNSET}'}")  # used by two other keys
    assert fault.startswith(f"r.yaml:25: data.root: the environment variable {UNSET} is not set")


def test_a_loop_that_needs_a_teacher_needs_one_in_the_recipe(folder) -> None:
    start, end = RECIPE.index("        sampler:"), RECIPE.index("        data:")
    taught = RECIPE[:start].replace(":MyLoop", ":Taught") + RECIPE[end:]
    assert folder.faults(text=taught) == [
        "r.yaml:9: loops.one.tasks.seg: this loop needs a teacher: give the recipe one, e.g. teacher: {use: ema}"
    ]
    assert folder.faults("teacher={use: './parts.py:Any'}", text=taught) == []
    assert [
        fault.split(": ", 2)[2]
        for fault in folder.faults(
            "teacher={use: './parts.py:Any'}",
            "loops.one.tasks.seg.betas=[0.9]",
            "loops.one.tasks.seg.extra={a: 1, b: x}",
            "loops.one.tasks.seg.many=[{use: './parts.py:source'}]",
            text=taught,
        )
    ] == ["expected a list of 2 items, got 1", "expected an integer, got 'x' (text)", "missing key 'root' (Path)"]


def test_faults_of_overrides_are_located_at_the_command_line(folder) -> None:
    assert folder.faults(
        "train.updates=1.5", "trian.updates=3", "seed", "base=x", "name.x=1", "loops.one.tasks.seg.sampler.k=many", "optimizer.lr=["
    ) == [
        "command line: 'seed' is no override: write key.path=value; if it belongs to the word before, put both in quotes: "
        "'trian.updates=3 seed'",
        "command line: base cannot be overridden: it is read before the command line",
        "command line: 'name.x=1' leads nowhere: there is no mapping or item 'name' on the way",
        "command line: loops.one.tasks.seg.sampler.k: expected an integer, got 'many' (text)",
        "command line: optimizer.lr: '[' is not YAML: expected the node content, but found '<stream end>'",
        "command line: train.updates: expected an integer, got 1.5 (a float)",
        "command line: trian: unknown key 'trian', did you mean 'train'?",
    ]


def test_faults_of_the_command_line_come_after_those_of_files(folder) -> None:
    faults = folder.faults("seed=x", text=RECIPE.replace("batch_size: 3", "batch_size: x"))
    assert [fault.split(": ")[0] for fault in faults] == ["r.yaml:23", "command line"]


def test_a_broken_plugin_is_a_fault_like_others(folder) -> None:
    (folder.path / "bad.py").write_text("import no_such_module_anywhere\n")
    (fault,) = folder.edited("./parts.py:MySampler", "./bad.py:Thing")
    assert fault.startswith(
        "r.yaml:12: loops.one.tasks.seg.sampler.use: ./bad.py:Thing in samplers cannot be imported: ModuleNotFoundError: No module"
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name: [1\nseed: 2\n", "r.yaml:2: this is not YAML: "),
        ("", "r.yaml:1: a recipe is a mapping of keys to values, and this file holds none"),
        ("- 1\n", "r.yaml:1: a recipe is a mapping"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: this is not YAML: but found another document"),
    ],
)
def test_what_is_no_recipe_at_all_is_one_fault(folder, text: str, fault: str) -> None:
    (only,) = folder.faults(text=text)
    assert only.startswith(fault)


def test_a_file_that_cannot_be_read_is_a_user_error(tmp_path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml cannot be read: No such file"):
        load(tmp_path / "gone.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(UserError, match="it is not UTF-8 text"):
        load(tmp_path / "latin.yaml")


def test_aliases_may_repeat_but_not_contain_themselves(folder) -> None:
    assert folder.edited("{root: /nowhere}", "{root: /nowhere, x: &x [1], y: *x}") == []
    (fault,) = folder.edited("{root: /nowhere}", "{root: /nowhere, x: &x [*x]}")
    assert fault == "r.yaml:25: data.x[0]: this alias refers to a mapping or list that contains it"
    (fault,) = folder.edited("{root: /nowhere}", "{root: /nowhere, x: &x {a: 1}, y: {<<: *x}}")
    assert fault == "r.yaml:25: data.y: '<<' is no key of a recipe: use base or ${...} instead"
