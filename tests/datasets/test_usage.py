"""What data sets leave out is counted: in the index, by wrappers, in the run's log, result and bad samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from core.contracts import LeftOut, TellsUsage, Usage
from core.engine.feed import bad_samples, forget_bad_samples
from core.engine.usage import for_result, lines, usages_of, write_left_out
from plugins.datasets._cache import cached
from plugins.datasets._usage import NAMED, Tally, usage_of_index
from plugins.datasets.augment import Augment
from plugins.datasets.coco_regions import CocoRegions
from plugins.datasets.concat import Concat
from plugins.datasets.filter import Filter
from plugins.datasets.repeat import Repeat

SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]


def brushes(root: Path) -> CocoRegions:
    """Three masks that are marked as crowds, and a polygon."""
    Image.new("RGB", (20, 10)).save(root / "a.png")
    brush = {"size": [10, 20], "counts": [0, 50, 150]}
    annotations: list[dict[str, Any]] = [
        {"id": number, "image_id": 1, "category_id": 1, "segmentation": brush, "iscrowd": 1} for number in (5, 6, 7)
    ]
    annotations.append({"id": 8, "image_id": 1, "segmentation": SQUARE, "iscrowd": 0})
    images = [{"id": 1, "file_name": "a.png", "height": 10, "width": 20}]
    (root / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return CocoRegions(annotations=root / "a.json", images=root)


def test_what_is_left_out_comes_back_from_the_index() -> None:
    tally = Tally("annotations")
    for number in range(NAMED + 5):
        tally.leave("crowd", str(number), advice="take them")
    tally.leave("no mask", "x", "no segmentation")
    tally.warnings.append("areas are odd")
    arrays = tally.arrays(1000)
    usage = usage_of_index(cached("x", {}, "s", lambda _: arrays), 10, 890)
    assert [one.count for one in usage.left_out] == [NAMED + 5, 1]
    assert len(usage.left_out[0].examples) == NAMED
    assert usage.left_out[1] == LeftOut("no mask", 1, "", (("x", "no segmentation"),))
    assert str(usage) == (
        f"894 of 1,000 annotations used; left out: {NAMED + 5} x crowd (take them), 1 x no mask; max_samples takes 10 of its 890 regions; "
        "areas are odd"
    )


def test_wrappers_tell_of_what_is_inside(tmp_path: Path) -> None:
    inner = brushes(tmp_path)
    (told,) = inner.usage()
    assert (told.used, told.of, told.left_out[0].count) == (1, 4, 3)
    for wrapper in (Repeat(data=inner, times=2), Augment(data=inner), Concat(data={"one": inner})):
        assert isinstance(wrapper, TellsUsage)
        assert wrapper.usage() == [told]
    everything = CocoRegions(annotations=tmp_path / "a.json", images=tmp_path, crowds=True)
    assert everything.usage() == [Usage(4, "annotations")]
    assert [str(one) for one in Filter(data=everything, max_share=0.1).usage()] == [
        "4 of 4 annotations used",
        "1 of 4 regions used; left out: 3 x does not fit the filter",
    ]


def test_a_run_tells_and_names_it_once_for_each_source(tmp_path: Path) -> None:
    inner = brushes(tmp_path)
    place = ("loops", "a", "tasks", "t", "data", "mine")
    found = usages_of({(*place, "data"): inner, place: Repeat(data=inner, times=2), ("model",): object()})
    assert list(found) == ["loops.a.tasks.t.data.mine"]
    assert lines(found) == [f"data: loops.a.tasks.t.data.mine: {inner.usage()[0]}"]
    assert for_result(found) == {"loops.a.tasks.t.data.mine": [{"used": 1, "of": 4, "unit": "annotations", "left_out": {"crowd": 3}}]}
    (left,) = inner.usage()[0].left_out
    many = {"x": [Usage(9, "rows", (LeftOut("crowd", 5, "", left.examples[:2]),))]}
    write_left_out(tmp_path / "bad_samples.jsonl", many)
    rows = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert [(row["update"], row["source"], row["sample"], row["detail"]) for row in rows] == [
        (None, "x", "5", ""),
        (None, "x", "6", ""),
        (None, "x", "", "3 more"),
    ]
    assert bad_samples(tmp_path) == {}  # no draws
    forget_bad_samples(tmp_path, 9)  # at a resume they are written anew
    assert not (tmp_path / "bad_samples.jsonl").exists()
