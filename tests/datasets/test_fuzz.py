"""Damaged files of every kind: the reader gives a sound region, ``BadSample``, or ``UserError`` that names the file. Nothing else.

``DUALLOOP_FUZZ=N`` tries N damages of each file instead of a few, drawn anew each time.
"""

from __future__ import annotations

import base64
import io
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from core.contracts import BadSample, Dataset, UserError
from plugins.datasets import _rle, dam
from plugins.datasets.coco_regions import CocoRegions
from plugins.datasets.folder_regions import FolderRegions
from plugins.datasets.labelme import Labelme
from plugins.datasets.openimages import OpenImages
from plugins.datasets.refcoco import Refcoco
from plugins.datasets.sa1b import Sa1b
from plugins.datasets.sav import Sav
from plugins.datasets.sav_pairs import SavPairs
from plugins.datasets.shapes import write_world
from plugins.datasets.via import Via

MANY = int(os.environ.get("DUALLOOP_FUZZ", "0"))
TRIES = settings(
    max_examples=MANY or 12, derandomize=not MANY, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)
SECONDS = 20  # for one damaged file
MEMORY = 4 * 2**30  # bytes more than at the beginning


@dataclass(frozen=True)
class Target:
    """A file below the small world, and who reads it."""

    file: str
    open: Callable[[Path], Dataset]
    names: tuple[str, ...] = ()  # others that an error may name instead


def _coco(root: Path) -> Dataset:
    return CocoRegions(annotations=root / "ref_seg/refcoco/instances.json", images=root / "ref_seg/refcoco/coco2014/train2014")


TARGETS = {
    "sa1b json": Target("one/sa_1.json", lambda root: Sa1b(root=root / "one"), ("one",)),
    "sa1b picture": Target("one/sa_1.jpg", lambda root: Sa1b(root=root / "one", draft=16)),
    "openimages csv": Target("openimages/train-annotations-object-segmentation.csv", lambda root: OpenImages(root=root / "openimages")),
    "openimages names": Target(
        "openimages/oidv7-class-descriptions.csv", lambda root: OpenImages(root=root / "openimages", caption="class_name")
    ),
    "openimages mask": Target("openimages/masks/train/MASK", lambda root: OpenImages(root=root / "openimages")),
    "refs": Target("ref_seg/refcoco/refs(unc).p", lambda root: Refcoco(root=root / "ref_seg", split="val")),
    "instances": Target("ref_seg/refcoco/instances.json", lambda root: Refcoco(root=root / "ref_seg", split="val")),
    "coco_regions": Target("ref_seg/refcoco/instances.json", _coco),
    "dam json": Target("dam/LVIS/annotations.json", lambda root: dam.lvis(root=root / "dam")),
    "dam tar": Target("dam/LVIS/images/00000000.tar", lambda root: dam.lvis(root=root / "dam")),
    "dam clips json": Target("dam/SAV/annotations.json", lambda root: dam.sav(root=root / "dam")),
    "dam clips tar": Target("dam/SAV/images/00000000.tar", lambda root: dam.sav(root=root / "dam")),
    "pairs": Target("pairs/masklet_data_0.npz", lambda root: SavPairs(root=root / "pairs")),
    "sav json": Target("videos/v_manual.json", lambda root: Sav(root=root / "videos", distance=1), ("_manual.json",)),
    "sav video": Target("videos/v.mp4", lambda root: Sav(root=root / "videos", distance=1)),
    "grefs": Target("ref_seg/grefcoco/grefs(unc).json", lambda root: Refcoco(root=root / "ref_seg", dataset="grefcoco", split="val")),
    "coco runs": Target("drawn/coco.json", lambda root: CocoRegions(annotations=root / "drawn/coco.json", images=root / "drawn")),
    "labelme": Target("labelme/a.json", lambda root: Labelme(root=root / "labelme"), ("labelme",)),
    "via json": Target("drawn/via.json", lambda root: Via(annotations=root / "drawn/via.json", images=root / "drawn")),
    "via csv": Target("drawn/via.csv", lambda root: Via(annotations=root / "drawn/via.csv", images=root / "drawn")),
    "lines": Target("folder/regions.jsonl", lambda root: FolderRegions(root=root / "folder")),
    "folder mask": Target("folder/m.png", lambda root: FolderRegions(root=root / "folder")),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One or a few samples of every format."""
    root = tmp_path_factory.mktemp("fuzz") / "world"
    write_world(root, pictures=6, seed=5, size=64)
    for suffix in (".json", ".jpg"):
        (root / "one").mkdir(exist_ok=True)
        shutil.copy(sorted((root / "sa1b").glob(f"*{suffix}"))[0], root / "one" / f"sa_1{suffix}")
    mask = sorted((root / "openimages/masks/train").iterdir())[0]
    table = root / "openimages/train-annotations-object-segmentation.csv"
    table.write_text("\n".join([line for line in table.read_text().splitlines() if line.startswith(("MaskPath", mask.name))]) + "\n")
    (root / "pairs").mkdir()
    square = np.zeros((16, 16), bool)
    square[4:9, 5:12] = True
    frames = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3)).astype(np.float32)
    np.savez_compressed(root / "pairs/masklet_data_0.npz", frame1=frames[0], mask1=255.0 * square, frame2=frames[1], mask2=255.0 * square)
    (root / "videos").mkdir()
    rle = {"size": [48, 64], "counts": [48, 96, 48 * 61]}
    (root / "videos/v_manual.json").write_text(json.dumps({"video_frame_count": 12.0, "masklet": [[rle, None], [rle, rle], [rle, rle]]}))
    with av.open(str(root / "videos/v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "6", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    (root / "folder").mkdir()
    Image.fromarray(square).save(root / "folder/m.png")
    Image.fromarray(frames[0].astype(np.uint8)).save(root / "folder/a.jpg")
    (root / "folder/regions.jsonl").write_text('{"image": "a.jpg", "mask": "m.png", "caption": "a thing", "id": "x"}\n')
    _drawn(root, square)
    return root


def _drawn(root: Path, square: np.ndarray) -> None:
    """gRefCOCO's refs, a COCO file of run lengths in UTF-16, a labelme folder and VIA's files."""
    (root / "ref_seg/grefcoco").mkdir()
    shutil.copy(root / "ref_seg/refcoco/instances.json", root / "ref_seg/grefcoco")
    annotations = json.loads((root / "ref_seg/refcoco/instances.json").read_text())["annotations"]
    picture = annotations[0]["image_id"]
    targets = [[one["id"] for one in annotations if one["image_id"] == picture], [-1], annotations[0]["id"]]
    refs = [
        {"ref_id": row, "image_id": picture, "ann_id": ids, "split": "val", "sentences": [{"sent_id": row, "raw": "a cup", "sent": "cup"}]}
        for row, ids in enumerate(targets)
    ]
    (root / "ref_seg/grefcoco/grefs(unc).json").write_text(json.dumps(refs))
    for folder in ("drawn", "labelme"):
        (root / folder).mkdir()
        shutil.copy(root / "folder/a.jpg", root / folder)
    flat = square.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = {"size": [16, 16], "counts": np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()}
    one = {"image_id": "é", "category_id": 1, "area": 35, "bbox": [5, 4, 7, 5], "caption": "a thing 杯"}
    coco = {"images": [{"id": "é", "file_name": "a.jpg", "width": 16, "height": None}]}
    coco |= {"categories": [{"id": 1, "name": "cup"}]}
    coco |= {"annotations": [one | {"id": 1, "segmentation": runs}, one | {"id": 2, "segmentation": [runs, runs]}]}
    (root / "drawn/coco.json").write_text(json.dumps(coco, ensure_ascii=False))
    file = io.BytesIO()
    Image.fromarray(square).save(file, "PNG")
    points = [[5, 4], [12, 4], [12, 9], [5, 9]]
    shapes = [{"label": "cup", "points": points, "shape_type": "polygon", "group_id": 1, "description": "a thing"}]
    shapes += [{"label": "cup", "points": points[::3], "shape_type": "circle", "group_id": 1}]
    shapes += [{"label": "cup", "points": [[0, 0], [15, 15]], "shape_type": "mask", "mask": base64.b64encode(file.getvalue()).decode()}]
    labelme = {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": 16, "imageWidth": 16}
    (root / "labelme/a.json").write_text(json.dumps(labelme))
    shape = {"name": "polygon", "all_points_x": [5, 12, 12, 5], "all_points_y": [4, 4, 9, 9]}
    regions = [{"shape_attributes": shape, "region_attributes": {"kind": {"cup": True}, "caption": "it"}}]
    regions += [{"shape_attributes": {"name": "ellipse", "cx": 8, "cy": 8, "rx": 3, "ry": 2, "theta": 1}, "region_attributes": {}}]
    (root / "drawn/via.json").write_text(
        json.dumps({"_via_img_metadata": {"a.jpg9": {"filename": "a.jpg", "size": 9, "regions": regions}}})
    )
    quoted = [json.dumps(regions[0][key]).replace('"', '""') for key in ("shape_attributes", "region_attributes")]
    head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    (root / "drawn/via.csv").write_text(f'{head}\na.jpg,9,"{{}}",1,0,"{quoted[0]}","{quoted[1]}"\n')


@pytest.fixture(autouse=True, scope="module")
def limits() -> Iterator[None]:
    """Memory ends in an error here, not in the machine's."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def _late(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def read(target: Target, root: Path, path: Path, data: bytes) -> None:
    """Writes the file, reads what there is and looks at what came."""
    path.write_bytes(data)
    error = ""
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        dataset = target.open(root)
        assert len(dataset)
        for index in [*range(min(len(dataset), 4)), len(dataset) - 1]:
            try:
                region = dataset[index]
            except BadSample:
                continue
            for image, mask in ((region.image, region.mask), (region.image2, region.mask2)):
                if image is not None and mask is not None:
                    assert image.dtype == np.uint8
                    assert image.shape == (*mask.shape, 3)
                    assert mask.dtype == bool
                    assert mask.any()
            assert region.caption is None or region.caption.strip()
            assert not region.caption or region.caption.encode()  # no half of a surrogate pair
    except UserError as fault:
        error = str(fault)
    finally:
        signal.alarm(0)
    assert not error or any(name in error for name in (path.name, *target.names)), error


def path_of(target: Target, root: Path) -> Path:
    path = root / target.file
    return sorted(path.parent.iterdir())[0] if path.name == "MASK" else path


@st.composite
def damages(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes changed, cut out, doubled or put in, or the end missing."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, max(0, len(changed) - 1)))
        end = min(len(changed), begin + draw(st.integers(1, 40)))
        kind = draw(st.sampled_from(["set", "flip", "cut", "double", "insert", "end"]))
        if kind == "set" and changed:
            changed[begin] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, *b'0123456789-.eE[]{},:"\\/']))
        elif kind == "flip" and changed:
            changed[begin] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del changed[begin:end]
        elif kind == "double":
            changed[begin:begin] = changed[begin:end]
        elif kind == "insert":
            changed[begin:begin] = draw(st.binary(max_size=8))
        elif kind == "end":
            del changed[begin:]
    return bytes(changed)


JUNK: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), 0.5]),
    st.sampled_from(["", " ", "\udc80", "../../../etc/passwd", "/dev/zero", "\0", "é" * 300, "0", "x.jpg"]),
    st.sampled_from(
        [[], {}, [[]], [{}], [1], ["x"], [[1, 2, 3]], {"size": [10**9, 10**9], "counts": "0"}, {"size": [2, 2], "counts": [9]}]
    ),
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*at, key)
        yield from _places(value[key], (*at, key))


@st.composite
def wrong_values(draw: st.DrawFn, data: bytes) -> bytes:
    """A value of a JSON file replaced by another, left out, or nested deeply."""
    value = json.loads(data)
    for _ in range(draw(st.integers(1, 2))):
        places = [*_places(value)]
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        holder = value
        for key in way:
            holder = holder[key]
        if draw(st.integers(0, 5)):
            holder[last] = deepcopy(draw(JUNK))  # a second damage may go inside
        else:
            del holder[last]
    text = json.dumps(value)
    if not draw(st.integers(0, 9)):
        text = text.replace("null", "[" * 50_000 + "]" * 50_000, 1) if "null" in text else "[" * 50_000
    return text.encode()


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_bytes(name: str, small: Path) -> None:
    target = TARGETS[name]
    path = path_of(target, small)
    good = path.read_bytes()

    @TRIES
    @given(damages(good))
    def tries(data: bytes) -> None:
        read(target, small, path, data)

    try:
        tries()
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.file.endswith((".json", ".jsonl"))])
def test_wrong_values_in_json(name: str, small: Path) -> None:
    target = TARGETS[name]
    path = path_of(target, small)
    good = path.read_bytes()

    @TRIES
    @given(wrong_values(good))
    def tries(data: bytes) -> None:
        read(target, small, path, data)

    try:
        tries()
    finally:
        path.write_bytes(good)


@TRIES
@given(st.dictionaries(st.sampled_from(["size", "counts", "x"]), st.one_of(JUNK, st.text(), st.lists(st.integers() | JUNK))) | JUNK)
def test_any_value_as_a_mask(value: Any) -> None:
    for decode in (lambda: _rle.decode(value, "x"), lambda: _rle.decode(value, "x", 4), lambda: _rle.segmentation(value, 9, 7, "x")):
        try:
            mask = decode()
        except BadSample:
            continue
        assert mask.dtype == bool
        assert mask.ndim == 2


def test_a_damaged_mask_string_is_never_another_mask_of_its_picture(small: Path) -> None:
    """SA-1B states each mask's area: what comes has that area, or it is refused."""
    target = TARGETS["sa1b json"]
    path = path_of(target, small)
    good = path.read_bytes()
    counts = json.loads(good)["annotations"][0]["segmentation"]["counts"]

    @TRIES
    @given(damages(counts.encode()))
    def tries(data: bytes) -> None:
        content = json.loads(good)
        content["annotations"] = content["annotations"][:1]
        content["annotations"][0]["segmentation"]["counts"] = data.decode("latin1")
        path.write_text(json.dumps(content))
        try:
            region = target.open(small)[0]
        except BadSample:
            return
        assert region.mask.sum() == content["annotations"][0]["area"]

    try:
        tries()
    finally:
        path.write_bytes(good)
