"""The demo: what clicks mean, two sides of one run, what a user can put right, and the page in a real browser."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from browser import Page
from PIL import Image

from core.asking import demo_page
from core.asking.examples import MOST, examples_of
from core.asking.opening import Side, open_sides
from core.asking.scene import Scene
from core.commands import demo
from core.contracts import UserError
from core.registry import Registry
from core.testing.tiny_model import TinyModel
from plugins.models.sa2va.components import load

ASSET = Path(__file__).parents[2] / "assets" / "sa2va-shapes"


def test_clicks_are_points_boxes_and_outlines(tmp_path):
    Image.new("RGB", (512, 512)).save(tmp_path / "square.png")  # shown as it is
    one = Scene()
    one.open(tmp_path / "square.png")
    assert (one.region, one.masks()) == ("", None)
    assert one.click(34, 64)
    assert one.region == "34.5,64.5"
    assert one.click(90, 60), "a point is a whole region: the next click begins a new one"
    assert one.region == "90.5,60.5"
    one.kind, one.clicks = "a corner of a box", []
    assert not one.click(117, 44)
    assert one.masks() is None
    assert one.click(76, 89)
    masks = one.masks()
    assert masks is not None
    truth = np.zeros((512, 512), bool)
    truth[44:90, 76:118] = True
    assert (masks[0] == truth).all(), "both corners' pixels are inside, in whatever order they are clicked"
    one.kind, one.clicks = "a corner of an outline", []
    for corner in ((10, 10), (50, 10), (10, 50)):
        assert not one.click(*corner), "an outline has as many corners as one likes"
    masks = one.masks()
    assert masks is not None
    assert (masks[0, 20, 20], masks[0, 45, 45]) == (True, False)


@pytest.mark.parametrize(("width", "seen", "region"), [(3840, 1280, "301.5,61.5"), (96, 480, "20.1,4.1")])
def test_a_click_meets_the_pixel_that_was_seen(tmp_path, width, seen, region):
    """Large pictures are shown smaller, small ones larger."""
    Image.new("RGB", (width, width // 3)).save(tmp_path / "wide.png")
    one = Scene()
    one.open(tmp_path / "wide.png")
    assert one.shown().shape == (round(seen / 3), seen, 3)
    one.click(100, 20)
    assert one.region == region
    one.click(seen - 1, 0)
    assert one.masks() is not None


def test_of_a_long_video_evenly_spaced_frames_are_kept(tmp_path, monkeypatch):
    from core.asking import looking

    frames = [np.full((8, 8, 3), number, np.uint8) for number in range(150)]
    monkeypatch.setattr("core.pixels.videos.all_frames", lambda path: iter(frames))
    found = looking.read_visual(tmp_path / "clip.mp4", most=64)
    assert [int(frame[0, 0, 0]) for frame in found] == list(range(0, 150, 4))
    assert len(looking.read_visual(tmp_path / "clip.mp4", 2, most=75)) == 75


def test_the_sides_of_a_run_are_one_model_before_and_after_training(finished):
    before, after = open_sides(finished, Registry(), None, None)
    assert before.model is after.model, "in memory once"
    assert after.name.startswith("after training (")

    def values() -> list[torch.Tensor]:
        return [p.detach().clone() for members in after.model.trainable().values() for _, p in members]

    before.take()
    base = values()
    after.take()
    trained = values()
    before.take()
    assert all(torch.equal(a, b) for a, b in zip(base, values(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(base, trained, strict=True))
    assert [side.name for side in open_sides(ASSET, Registry(), None, None, beside=ASSET)] == [str(ASSET)] * 2


def test_answers_stand_for_all_sides_or_for_none(scene):
    picture = Scene()
    with pytest.raises(UserError, match="give a picture or a video first"):
        picture.segment([], "a", 4)
    picture.open(scene)
    sides = [Side("one", TinyModel()), Side("other", TinyModel())]
    with pytest.raises(UserError, match="write a phrase first"):
        picture.segment(sides, " ", 4)
    with pytest.raises(UserError, match="click into the picture first"):
        picture.describe(sides, 4)
    picture.segment(sides, "a", 4)
    assert len(picture.found) == 2
    kept = picture.found
    with pytest.raises(UserError, match="has no 'ask'"):
        picture.ask(sides, "why?", 4)
    assert picture.found is kept


def test_the_first_examples_are_what_the_run_is_evaluated_on(finished, tmp_path, world):
    assert examples_of(finished, Registry(), tmp_path) == ([], "the run's recipe names no evaluator with data")
    out, checkpoint = tmp_path / "out", tmp_path / "run" / "checkpoints" / "update-000001"
    for folder in (out, checkpoint):
        folder.mkdir(parents=True)
    data = {"use": "refcoco", "root": str(world / "ref_seg"), "split": "val", "text": "sent"}
    values = yaml.safe_load((finished / "recipe.yaml").read_text()) | {"evaluate": {"referring": {"use": "refcoco", "data": data}}}
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(values))
    (checkpoint / "trained.safetensors").touch()
    files, why = examples_of(checkpoint, Registry(), out)
    assert why == ""
    assert 1 < len(files) <= MOST
    assert all(Image.open(file).size == (64, 64) for file in files)
    assert len({file.read_bytes() for file in files}) == len(files)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1, not 0"),
        (["--port", "70000"], "--port must be in 1..65535, not 70000"),
        (["--example", "gone.png"], "--example gone.png: not found"),
        ([], "nothing: not found; name a run"),
    ],
)
def test_faults_are_one_sentence(words, message, monkeypatch, capsys):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: object())
    assert demo.main(["nothing", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_gradio_the_line_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    assert demo.main(["nothing"]) == 2
    assert capsys.readouterr().err == "error: the demo needs gradio: pip install 'dualloop[demo]'\n"


def test_who_can_reach_the_page():
    assert [demo._loopback(host) for host in ("127.0.0.1", "::1", "localhost")] == [True] * 3
    assert [demo._loopback(host) for host in ("0.0.0.0", "10.0.0.1", "gpu7")] == [False] * 3


@pytest.fixture
def address(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page of the small model beside one that has learned nothing; gone after the test."""
    pytest.importorskip("gradio", reason="no gradio: pip install 'dualloop[demo]'", exc_type=ImportError)
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "GRADIO_SHARE", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "set back after the test")
    demo_page.quiet(tmp_path / "uploads")
    trained = load(checkpoint=ASSET).eval()
    blind = load(checkpoint=ASSET).eval()
    with torch.no_grad():
        for members in blind.trainable().values():
            for _, parameter in members:
                parameter.mul_(0.5)
    page = demo_page.build_page([Side("halved weights", blind), Side("assets/sa2va-shapes", trained)], "dualloop: two models", [scene], 32)
    yield demo_page.serve(page, "127.0.0.1", None)
    page.close(verbose=False)


def wait_for(tab: Page, script: str) -> object:
    """The first true value of an expression; a page in a busy machine takes its time."""
    script = f"(async () => {{ for (;;) {{ const v = {script}; if (v) return v; await new Promise(r => setTimeout(r, 100)); }} }})()"
    return tab.do(script)


def upload(tab: Page, file: Path) -> None:
    node = tab.call("DOM.getDocument")["root"]["nodeId"]
    chosen = tab.call("DOM.querySelector", nodeId=node, selector="#file input[type=file]")["nodeId"]
    tab.call("DOM.setFileInputFiles", nodeId=chosen, files=[str(file)])


def ask_for(tab: Page, words: str, button: str) -> None:
    tab.do('document.querySelector("#words textarea, #words input").focus()')
    tab.call("Input.insertText", text=words)
    tab.do(f'document.querySelector("#{button}").click()')


ANSWER = 'document.querySelector("#answer{} textarea").value'


def test_the_page_describes_a_click_and_finds_a_phrase_with_two_models(address: str, scene: Path, tab: Page, tmp_path: Path) -> None:
    tab.requests.clear()
    tab.visit(address, 1400)
    wait_for(tab, 'document.querySelector("#file input[type=file]")')
    upload(tab, scene)
    place = 'document.querySelector("#picture img")'
    wait_for(tab, f"{place} && {place}.naturalWidth === 480")
    box = tab.do(f"(({{x, y, width, height}}) => [x, y, width, height])({place}.getBoundingClientRect())")
    tab.click(box[0] + box[2] * 97 / 128, box[1] + box[3] * 67 / 128)  # the middle of the blue square
    wait_for(tab, ANSWER.format(1))
    assert "blue" in tab.do(ANSWER.format(1))
    described = tab.do(ANSWER.format(1))
    ask_for(tab, "red circle", "segment")
    wait_for(tab, f'{ANSWER.format(1)} !== {described!r} && {ANSWER.format(1)}.includes("mask 1: ")')
    share = float(tab.do(ANSWER.format(1)).split("mask 1: ")[1].split("%")[0])
    assert share == pytest.approx(100 * np.pi * 24**2 / 128**2, abs=4)
    wait_for(tab, 'document.querySelector("#masks1 img") && document.querySelector("#masks1 img").naturalWidth === 480')
    if folder := os.environ.get("DUALLOOP_SCREENSHOTS"):
        for width in (1400, 390):
            tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
            tab.screenshot(Path(folder) / f"demo-{width}.png", whole=True)
    assert {url.split("/")[2] for url in tab.requests if url.startswith("http")} == {address.split("/")[2]}, "nothing from elsewhere"
    for name in ("/etc/hostname", str(ASSET / "config.json"), str(Path(__file__))):
        with pytest.raises(urllib.error.HTTPError, match=r"40[34]"):
            urllib.request.urlopen(f"{address}gradio_api/file={name}")


def test_the_page_follows_a_phrase_through_a_video(address: str, tmp_path: Path, tab: Page) -> None:
    """The slider shows each frame with the mask that it has there. Five frames: the small model has no video memory for more."""
    import av

    down, across = np.mgrid[:128, :128]
    with av.open(str(tmp_path / "clip.mp4"), "w") as clip:
        stream = clip.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 128, 128, "yuv420p", 4_000_000
        for number in range(5):
            frame = np.full((128, 128, 3), 190, np.uint8)
            frame[(across - 34 - 12 * number) ** 2 + (down - 64) ** 2 < 24**2] = (215, 40, 40)
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        clip.mux(stream.encode())
    tab.visit(address, 1400)
    wait_for(tab, 'document.querySelector("#file input[type=file]")')
    upload(tab, tmp_path / "clip.mp4")
    wait_for(tab, 'document.querySelector("#picture img")?.naturalWidth === 480 && document.querySelector("#frame input[type=range]")')
    assert tab.do('document.querySelector("#frame input[type=range]").max') == "4"
    ask_for(tab, "red circle", "segment")
    wait_for(tab, f'{ANSWER.format(1)}.includes("of the video")')
    share = float(tab.do(ANSWER.format(1)).split("mask 1: ")[1].split("%")[0])
    assert share == pytest.approx(100 * np.pi * 24**2 / 128**2, abs=6)
    wait_for(tab, 'document.querySelector("#masks1 img")?.naturalWidth === 480')
    first = tab.do('document.querySelector("#masks1 img").src')
    slide = "const s = document.querySelector('#frame input[type=range]'); s.value = 4;"
    tab.do(f"(() => {{ {slide} for (const e of ['input', 'change', 'pointerup']) s.dispatchEvent(new Event(e, {{bubbles: true}})); }})()")
    wait_for(tab, f'document.querySelector("#masks1 img").src !== {first!r}')
    if folder := os.environ.get("DUALLOOP_SCREENSHOTS"):
        tab.screenshot(Path(folder) / "demo-video.png", whole=True)
