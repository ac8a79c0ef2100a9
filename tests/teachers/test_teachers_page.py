"""The teacher that docs/teachers.md writes: its kit passes, and it is refused where a caption is missing."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.engine.children import Command
from tests.patience import HANGS_S

ROOT = Path(__file__).parents[2]


def test_the_python_of_the_page_passes_its_kit(tmp_path: Path) -> None:
    teacher, test = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "teachers.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "written.py").write_text(teacher)
    (tmp_path / "test_written.py").write_text(
        test + "\n\n"
        "def test_a_missing_caption(tmp_path):\n"
        "    from core.contracts import UserError\n"
        "    from core.testing.tiny_model import TinyModel, TinyPreparation, regions\n"
        "    (tmp_path / 'c.json').write_text('{}')\n"
        "    with pytest.raises(UserError, match='it has no caption of region-0'):\n"
        "        WrittenCaptions(file=tmp_path / 'c.json').captions(TinyModel(), None, TinyPreparation().collate(regions()), 4)\n"
    )
    run = Command("pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path, tmp_path)
    said, errors = run.communicate(HANGS_S)
    assert run.returncode == 0, said + errors
    assert re.search(r"[6-9] passed, \d+ skipped", said)
