"""The mistakes of a researcher's day: each is told before anything is built, says what is wrong, where it was written and what to do.

A row: what is written (overrides, or a change of the file's text), where it is told to stand, and what the sentence must say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from core.commands.components import main as components
from core.commands.evaluate import main as evaluate
from core.commands.run import main as run

ROOT = Path(__file__).parents[2]
TINY = (ROOT / "recipes" / "dual_loop_tiny.yaml").read_text(encoding="utf-8")
CLI = "command line"
SAMPLER, PSEUDO = "loops.loop1.tasks.pseudo.sampler", "loops.loop1.tasks.pseudo"


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Checks the main recipe with ``text`` changed and overrides given; the lines that it is refused with."""
    monkeypatch.chdir(ROOT)

    def check(*overrides: str, change: tuple[str, str] | None = None, text: str | None = None, code: int = 2) -> list[str]:
        written = TINY if text is None else text
        if change is not None:
            assert written.count(change[0]) == 1, change[0]
            written = written.replace(*change)
        file = tmp_path / "r.yaml"
        file.write_text(written, encoding="utf-8")
        assert run([str(file), "--check", *overrides]) == code
        lines = [line.replace(f"{file}:", "r.yaml:") for line in capsys.readouterr().err.splitlines()]
        assert not any("Traceback" in line for line in lines)
        return [line for line in lines if not re.fullmatch(r"\d+ faults? in .*|note: .*|warning: .*", line)]

    return check


def line_of(text: str) -> str:
    """Where a piece of the main recipe stands."""
    return f"r.yaml:{TINY[: TINY.index(text)].count(chr(10)) + 1}"


#: (the overrides, the start of the only line, what it says)
GIVEN: list[tuple[list[str], str, str]] = [
    (["data=[a]"], f"{CLI}: data: ", r"NAME: "),
    (["track=[wandb]"], f"{CLI}: track: ", r"NAME: \{use: "),
    (["losses=[x]"], f"{CLI}: losses: ", "unknown key 'losses'"),
    ([f"{PSEUDO}.losses=[x]"], f"{CLI}: {PSEUDO}.losses: ", "expected a mapping with the keys mask, answer, pseudo"),
    ([f"{PSEUDO}.k=3"], f"{CLI}: {PSEUDO}.k: ", rf"unknown key 'k'.*'k' belongs to {PSEUDO}\.sampler"),
    (["lr=1.0e-4"], f"{CLI}: lr: ", "'lr' belongs to optimizer"),
    (["batch_size=4"], f"{CLI}: batch_size: ", "'batch_size' belongs to train"),
    (["learning_rate=1.0e-4"], f"{CLI}: learning_rate: ", r"optimizer\.lr"),
    (["max_steps=10"], f"{CLI}: max_steps: ", r"train\.updates"),
    (["train.epochs=3"], f"{CLI}: train.epochs: ", r"train\.updates"),
    (["optimizer.lr=abc"], f"{CLI}: optimizer.lr: ", "expected a number, got 'abc'"),
    (["seed=null"], f"{CLI}: seed: ", "expected an integer, got null"),
    (["train.updates=true"], f"{CLI}: train.updates: ", "expected an integer, got true"),
    (["train.updates=4.0"], f"{CLI}: train.updates: ", "expected an integer, got 4.0"),
    (["checkpoint.every=0.1"], f"{CLI}: checkpoint.every: ", "expected an integer, got 0.1"),
    (["train.batch_size=0"], f"{CLI}: train.batch_size: ", "expected a value >= 1, got 0"),
    (["loops.loop2.weight=-0.5"], f"{CLI}: loops.loop2.weight: ", "expected a value >= 0, got -0.5"),
    (["launch.zero_stage=3"], f"{CLI}: launch.zero_stage: ", "expected a value in 1..2, got 3"),
    (["evaluate.referring.use=grefcoco"], f"{CLI}: evaluate.referring.use: ", "did you mean 'refcoco'"),
    (["optimizer.use=adam"], f"{CLI}: optimizer.use: ", "did you mean 'adamw'"),
    (["data.world=${oc.env:NO_SUCH_FOLDER_HERE}"], f"{CLI}: data.world: ", "NO_SUCH_FOLDER_HERE is not set: set it, or give a default"),
    (["model.checkpoint=docs"], f"{CLI}: model.checkpoint: ", r"docs has no config\.json"),
    (["optimizer.lr=-1.0e-4"], f"{CLI}: optimizer.lr: ", "expected a value > 0, got -0.0001"),
    ([f"{SAMPLER}.k=0"], f"{CLI}: {SAMPLER}.k: ", "expected a value >= 1, got 0"),
    ([f"{SAMPLER}.temperature=0"], f"{CLI}: {SAMPLER}.temperature: ", "expected a value > 0, got 0"),
    ([f"{PSEUDO}.token_mask_ratio=25"], f"{CLI}: {PSEUDO}.token_mask_ratio: ", r"expected a value in 0\.\.1, got 25"),
    (["teacher.decay=1.5"], f"{CLI}: teacher.decay: ", r"expected a value in 0\.\.1 \(1 excluded\), got 1.5"),
    (["optimizer.warmup=100"], f"{CLI}: optimizer.warmup: ", r"expected a value in 0\.\.1 \(1 excluded\), got 100"),
    ([f"{PSEUDO}.caption_length=0"], f"{CLI}: {PSEUDO}.caption_length: ", "expected a value >= 1, got 0"),
    (["schedule={use: every_n, main: loop1, other: loop2, n: 0}"], f"{CLI}: schedule.n: ", "expected a value >= 1, got 0"),
    (["optimizer.group_lr={lorra: 2.0}"], f"{CLI}: optimizer.group_lr", "lorra, but the parameter groups are projector, .*lora"),
    (["model.max_tiles=0"], f"{CLI}: model.max_tiles: ", "expected a value >= 1, got 0"),
    (["name=a/b: c"], f"{CLI}: name: ", "becomes the name of a folder"),
    ([f"{PSEUDO}.losses.mask.use=caption_ce"], f"{CLI}: {PSEUDO}.losses.mask.use: ", "it is a TokenLoss .* and a MaskLoss .* is wanted"),
    (["schedule.order=[loop1]"], f"{CLI}: schedule.order", "the loop 'loop2' takes part in none of the 120 updates.*loops.loop2=null"),
    (["schedule.order=[loop1, loop3]"], f"{CLI}: schedule.order: ", "there is no loop 'loop3': did you mean 'loop2'"),
    (["launch.device=gpu"], f"{CLI}: launch.device: ", "did you mean 'cuda'"),
    (["train.precision=fp16"], f"{CLI}: train.precision: ", "did you mean 'bf16'"),
    (["model.lora.rank=3"], f"{CLI}: model.lora.rank: ", "unknown key 'rank'"),
    (["model.train=[lora, sam2-decoder]"], f"{CLI}: model.train[1]: ", "did you mean 'sam2_decoder'"),
    (["evaluate.referring.data.split=vall"], f"{CLI}: evaluate.referring.data.split: ", "did you mean 'val'"),
    (["model.train=lora"], f"{CLI}: model.train: ", r"expected a list.*\[lora\]"),
    (["loops.loop1.tasks.referring.data.refcoco.dataset=refcocog"], f"{CLI}: loops.loop1.", "write split_by=umd"),
    (["track.wandb.project=me/x"], f"{CLI}: track.wandb.project: ", "entity"),
    (["launch={strategy: fsdp2, processes: 2}"], f"{CLI}: launch.strategy: ", "set train.evaluate=none and checkpoint.export=false"),
    (["train.updates 4"], f"{CLI}: ", "'train.updates 4' is no override: write key.path=value"),
    (["launch.device=cuda"], f"{CLI}: launch.device: ", "asks for 1 GPUs, 0 found.*runs it here"),
    (["launch={device: cuda, processes: 8, strategy: ddp}"], f"{CLI}: launch.device: ", "asks for 8 GPUs, 0 found.*runs it here"),
    (["launch.processes=8"], f"{CLI}: launch.processes: ", "needs launch.strategy=ddp, deepspeed or fsdp2"),
]


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, world: Path) -> str:
    """The override that gives the recipe a world that is there."""
    monkeypatch.setattr("core.engine.launch.devices.gpus", lambda: 0)
    return f"data.world={world}"


@pytest.mark.parametrize(("overrides", "where", "says"), GIVEN, ids=[" ".join(overrides) for overrides, _, _ in GIVEN])
def test_on_the_command_line(told: Callable[..., list[str]], there: str, overrides: list[str], where: str, says: str) -> None:
    given = overrides if overrides[0].startswith("data") else [there, *overrides]
    lines = told(*given)
    assert len(lines) == 1, lines
    assert lines[0].startswith(where), lines
    assert re.search(says, lines[0]), lines


#: (text of the recipe, what is written instead, what the only line says)
IN_THE_FILE: list[tuple[str, str, str]] = [
    (
        "checkpoint: {every",
        "train: {updates: 3}\ncheckpoint: {every",
        r"r\.yaml:\d+: train: duplicate key 'train': it is already given at .*r\.yaml:\d+",
    ),
    ("name: dual", "\tname: dual", r"r\.yaml:\d+: this is not YAML: .*indent with spaces"),
    ("seed: 42", "seed: {42", r"r\.yaml:\d+: this is not YAML: expected ',' or '\}'"),
    (
        "world: data/shapes",
        'world: "${data.wrld}"',
        r"r\.yaml:\d+: data\.world: '\$\{data\.wrld\}' refers to 'data\.wrld', which is not given",
    ),
    ("recipe: 1", "base: nothing.yaml\nrecipe: 1", r"r\.yaml:\d+: base: there is no file .*nothing\.yaml"),
]


@pytest.mark.parametrize(("old", "new", "says"), IN_THE_FILE, ids=[new for _, new, _ in IN_THE_FILE])
def test_in_the_file(told: Callable[..., list[str]], there: str, old: str, new: str, says: str) -> None:
    lines = told(*([] if "wrld" in new else [there]), change=(old, new))
    assert len(lines) == 1, lines
    assert re.match(says, lines[0]), lines


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("share: 1.5", r"gradient\.share: expected a value in 0\.\.1, got 1\.5"),
        ("power: 0", "gradient.power: expected a value > 0, got 0"),
        ("every: 0", "gradient.every: expected a value >= 1, got 0"),
        ("angle: 270", r"gradient\.angle: expected a value in 0\.\.180, got 270"),
        ("share: {from: 0.1, to: 1.5, over: 9}", r"gradient\.share: expected a value in 0\.\.1, got 1\.5"),
        ("angle: 0", r"gradient\.angle: angle must be above 0 where share is\."),
    ],
)
def test_the_pages_component_states_its_ranges(told: Callable[..., list[str]], there: str, tmp_path: Path, key: str, says: str) -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8").split("## Ranges")[1]
    (tmp_path / "softer.py").write_text(page.split("```python\n")[1].split("```")[0], encoding="utf-8")
    [line] = told(there, f"gradient={{use: '{tmp_path / 'softer.py'}:Softer', {key}}}")
    assert re.search(says, line), line


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return ['loop1', 'loop2'] if update else ['loop1', 'loop3']", "it names the loop 'loop3' in update 0; there are loop1, loop2"),
        ("return [['loop1', 'loop2'], []][update % 2]", "it gives no loop for update 1"),
        ("return ['loop1', 'loop2', 'loop1']", r"it gives a loop twice \(loop1, loop2, loop1\) for update 0"),
        ("return self.plan[update]", r"loops\(0\) raises AttributeError: "),
    ],
)
def test_a_schedule_of_ones_own_is_asked_for_its_loops(
    told: Callable[..., list[str]], there: str, tmp_path: Path, body: str, says: str
) -> None:
    (tmp_path / "mine.py").write_text(f"class Mine:\n    def loops(self, update):\n        {body}\n")
    [line] = told(there, f"schedule={{use: '{tmp_path / 'mine.py'}:Mine'}}")
    assert line.startswith(f"{CLI}: schedule"), line
    assert re.search(says, line), line


def test_an_empty_file(told: Callable[..., list[str]]) -> None:
    assert told(text="") == ["r.yaml:1: a recipe is a mapping of keys to values, and this file holds none"]


def test_all_faults_come_at_once_each_from_where_it_was_written(told: Callable[..., list[str]], there: str) -> None:
    """Constructors' refusals too; the command line's values are not blamed on the file's lines."""
    lines = told(there, "teacher.decay=1.5", "track.wandb.project=a/b", "optimizer.lr=-1", change=("k: 64", "k: 0"))
    assert [line.split(": ")[:2] for line in lines] == [
        [line_of("k: 64"), f"{SAMPLER}.k"],
        [CLI, "optimizer.lr"],
        [CLI, "teacher.decay"],
    ]
    lines = told(there, "track.wandb.project=a/b", "optimizer.group_lr={x: 1}", "schedule.order=[loop2]", "train.patience=2")
    assert [line.split(": ")[1] for line in lines] == ["track.wandb.project", "schedule.order[0]", "optimizer.group_lr", "train.patience"]
    assert all(line.startswith(CLI) for line in lines)


def test_numbers_and_texts_are_taken_as_they_are_meant(
    there: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["optimizer.lr=1e-4", "name=12:30", "output=~/my runs #3", there]
    assert run(["recipes/dual_loop_tiny.yaml", "--resolved", *given]) == 0
    printed = capsys.readouterr().out
    assert "lr: 0.0001  # command line" in printed
    assert "name: '12:30'  # command line" in printed  # YAML 1.1 would make 750 of it
    assert f"output: '{tmp_path}/my runs #3'  # command line" in printed


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["recipes/dual_loop_tiny.yaml", "--check", "seed=0123"], "seed: .*123"),
        (["recipes/dual_loop_tiny.yaml", "--train.updates=4"], r"write train\.updates=4"),
        (["recipes/dual_loop_tny.yaml", "--check"], "did you mean recipes/dual_loop_tiny.yaml"),
        (["--resume", "docs"], "docs"),
        (["recipes/dual_loop_tiny.yaml", "--resume", "runs/nope"], "no run folder runs/nope|runs/nope"),
    ],
    ids=" ".join,
)
def test_commands(command: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    try:
        code = run(command)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert re.search(says, printed), printed


def test_a_variable_that_is_nearly_set_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SA2VA_CHEKPOINT", "/somewhere")
    run(["recipes/dual_loop_8gpu.yaml", "--check", "--elsewhere"])
    printed = capsys.readouterr().err
    assert re.search("SA2VA_CHEKPOINT.*SA2VA_CHECKPOINT|SA2VA_CHECKPOINT.*SA2VA_CHEKPOINT", printed), printed


def test_a_path_that_is_not_there_says_what_is_wanted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert run(["recipes/dual_loop_tiny.yaml", "--check", "data.world=nowhere/shapes"]) == 0
    shown = capsys.readouterr()
    assert "placeholders that do not exist here" in shown.out
    assert "nowhere/shapes" in shown.err
    assert "nowhere/shapes" not in shown.out  # told once


def test_a_section_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert components(["explain", "train"]) in (0, 2)
    shown = capsys.readouterr()
    assert "updates" in shown.out + shown.err
    assert "uncertainty" not in shown.out + shown.err


def test_a_misspelt_setting_of_evaluate(capsys: pytest.CaptureFixture[str], there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert evaluate(["recipes/dual_loop_tiny.yaml", "max_sample=3", there]) == 2
    assert "did you mean 'max_samples'" in capsys.readouterr().err
