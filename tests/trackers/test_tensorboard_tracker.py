from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from core.contracts import RunInfo, Sample, Tracker
from plugins.trackers.tensorboard import Tensorboard


def run(folder, updates, resumed_at=0):
    tracker = Tensorboard()
    assert isinstance(tracker, Tracker)
    tracker.start(RunInfo(folder, "r", {}, resumed_at))
    for update in updates:
        tracker.log(update, {"loss/loop1": update / 4, "gradient/cosine": -0.5})
    return tracker


def read(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_numbers_and_pictures_read_back(tmp_path):
    tracker = run(tmp_path, [1, 2])
    picture = np.zeros((5, 7, 3), dtype=np.uint8)
    picture[..., 0] = 200
    Image.fromarray(picture).save(tmp_path / "sheet.png")
    tracker.picture(2, "sheet", tmp_path / "sheet.png")
    tracker.finish({"refcoco/cIoU": 0.75})
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) == {"loss/loop1", "gradient/cosine", "refcoco/cIoU"}
    assert [(e.step, e.value) for e in events.Scalars("loss/loop1")] == [(1, 0.25), (2, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("refcoco/cIoU")] == [(2, 0.75)]
    stored = Image.open(io.BytesIO(events.Images("sheet")[0].encoded_image_string))
    assert np.array_equal(np.asarray(stored), picture)


@pytest.mark.parametrize("resumed_at", [2, 0])  # 0: the run ended before its first checkpoint
def test_after_a_resume_no_step_stands_twice_in_the_files(tmp_path, resumed_at):
    run(tmp_path, [1, 2, 3])._writer.flush()  # killed: the file is not closed
    [file] = (tmp_path / "tensorboard").iterdir()
    with file.open("ab") as stream:
        stream.write(b"\x20\x00")  # a record cut short
    run(tmp_path, range(resumed_at + 1, 5), resumed_at).finish({})
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert len(files) == 2
    events = [Event.FromString(raw) for one in files for raw in RawEventFileLoader(str(one)).Load()]
    steps = sorted(event.step for event in events for value in event.summary.value if value.tag == "loss/loop1")
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("folder", ["", "/tmp/x", "../x"])
def test_folder_stays_in_the_run_folder(folder):
    with pytest.raises(ValueError, match="folder must"):
        Tensorboard(folder=folder)


def test_the_texts_of_samples_are_a_table(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    samples = [
        Sample("t", image, score=0.5, id="a", texts={"teacher": "a|b\nc", "student": "d"}),
        Sample("t", image, id="b", texts={"student": "e"}),
    ]
    tracker = run(tmp_path, [1])
    tracker.training_samples(1, "samples/loop1/pseudo", samples)
    tracker.finish({})
    [event] = read(tmp_path).Tensors("samples/loop1/pseudo/text_summary")
    assert event.tensor_proto.string_val[0].decode().splitlines() == [
        "| id | teacher | student | IoU |",
        "| --- | --- | --- | --- |",
        "| a | a\\|b c | d | 0.50 |",
        "| b |  | e |  |",
    ]
