"""An evaluation that two ranks share: the numbers of one process, a slow rank that is waited for, a rank that fails."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from core.contracts import BadSample, Model
from core.engine.evaluation import evaluate
from core.engine.launch import LostRank
from core.engine.parallel.exchange import Group
from core.engine.progress import Progress
from core.engine.undisturbed import undisturbed
from core.testing.tiny_model import TinyModel
from tests.engine.test_ranks import limit, together
from tests.patience import HANGS_S

QUIET = Progress(0, quiet=True)


class Predicting:
    """Two items of each of five units, from the model's own masks; the fourth unit is bad. Rank 1 may be slow, fail, or be killed."""

    def __init__(self, slow_s: float = 0.0, fails: bool = False, killed: bool = False) -> None:
        self.slow_s, self.fails, self.killed = slow_s, fails, killed

    def __len__(self) -> int:
        return 5

    def measure(self, model: Model, unit: int) -> list[dict]:
        if unit % 2:  # of rank 1
            time.sleep(self.slow_s)
            if self.fails:
                raise MemoryError("none left")
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
        if unit == 3:
            raise BadSample("no picture", "x3", "gone")
        image = np.random.default_rng(unit).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        masks = model.predict(image, ["red square", "blue box"], 8)
        return [{"id": f"{unit}.{i}", "share": float(one.mask.mean()) / 3} for i, one in enumerate(masks) if one.mask is not None]

    def tally(self, items: list[dict]) -> dict[str, np.ndarray]:
        return {"sum": np.array([item["share"] for item in items]), "n": np.ones(len(items))}

    def metrics(self, sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"share": sums["sum"] / sums["n"], "n_items": sums["n"]}

    def whole(self, items: list[dict]) -> dict[str, float]:
        return {"order": float("".join(item["id"][0] for item in items))}


def rank(number: int, port: int, out: Path) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    group = Group("cpu", timeout_s=HANGS_S)
    sharing = group.sharing

    @contextmanager
    def hurried(doing: str) -> Iterator[None]:
        """Any exchange inside would end after a second."""
        limit(group, 1)
        with sharing(doing):
            yield
        limit(group, HANGS_S)

    group.sharing = hurried  # type: ignore[method-assign]
    found = evaluate("e", Predicting(slow_s=1.0), TinyModel(), QUIET, group)  # rank 1 is through 2 s later
    (out / f"metrics{number}").write_text(json.dumps(found.metrics))
    try:
        evaluate("e", Predicting(fails=True), TinyModel(), QUIET, group)
    except MemoryError:
        while not (out / "told").exists():
            time.sleep(0.05)
    except LostRank as error:
        (out / "told.part").write_text(f"{number} {error}")
        (out / "told.part").rename(out / "told")
    os._exit(0)


def killed(number: int, port: int, out: Path) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        evaluate("e", Predicting(killed=True), TinyModel(), QUIET, Group("cpu", timeout_s=HANGS_S))
    except LostRank as error:
        (out / "told").write_text(f"{number} {error}")
    os._exit(0)


def test_a_rank_killed_in_its_share_is_not_waited_for(tmp_path: Path) -> None:
    """Without a launcher that would end the others, as under srun: a share has no time limit."""
    together(killed, tmp_path)
    assert (tmp_path / "told").read_text().startswith("0 rank 0 lost the other ranks while waiting for the others (evaluating e) (")


def test_two_ranks_measure_what_one_does(tmp_path: Path) -> None:
    together(rank, tmp_path)
    with pytest.warns(UserWarning, match=r"1 of 9 items of e were not used: 1 x no picture, e.g. x3 \(gone\)"):
        alone = evaluate("e", Predicting(), TinyModel(), QUIET).metrics
    assert alone["order"] == 112244.0  # of units 0 0 1 1 2 2 4 4
    assert alone["n_items"] == 8.0
    assert [json.loads((tmp_path / f"metrics{number}").read_text()) for number in (0, 1)] == [alone, alone]
    told = (tmp_path / "told").read_text()
    assert told.startswith("0 rank 0 lost the other ranks while waiting for the others (evaluating e) (one of them failed)"), told


def numbers() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def seed() -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)


def test_no_generator_moves() -> None:
    class Drawing(Predicting):
        def measure(self, model: Model, unit: int) -> list[dict]:
            return [{"id": f"{unit}", "share": sum(numbers())}]

    model = TinyModel()  # its layers draw
    seed()
    wanted = numbers()
    seed()
    evaluate("e", Drawing(), model, QUIET)
    assert numbers() == wanted
    seed()

    def failing() -> None:
        with undisturbed():
            raise ValueError(f"after {numbers()}")

    with pytest.raises(ValueError, match="after"):
        failing()
    assert numbers() == wanted
