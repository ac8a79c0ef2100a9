"""What ``core.check`` says of loops that compare the regions of a micro-batch."""

from __future__ import annotations

from pathlib import Path

from core.preflight.loops import within_batch
from core.recipe import load
from core.registry import Registry

TINY = Path(__file__).parents[2] / "recipes" / "dual_loop_tiny.yaml"

LOOP = """
from core.contracts import LossTerms

class Contrast:
    needs = frozenset()
    within_batch = True
    def counts(self, model, batch, noise) -> dict[str, int]: ...
    def __call__(self, model, teacher, batch, noise) -> LossTerms: ...
"""


def test_a_loop_that_compares_regions_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LOOP)
    task = f"loops.loop2.tasks.contrast={{use: '{tmp_path}/mine.py:Contrast', data: {{mine: {{use: folder_regions, root: '{tmp_path}'}}}}}}"
    for size, words in ((4, "the result depends on train.batch_size"), (1, "nothing to compare: give train.batch_size more")):
        [found] = within_batch(load(TINY, [task, f"train.batch_size={size}"]), Registry())
        assert (found.status, found.subject) == ("warn", "loops.loop2.tasks.contrast")
        assert words in found.text
    assert list(within_batch(load(TINY), Registry())) == []
