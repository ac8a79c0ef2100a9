"""Greedy decoding against one token at a time over the whole sequence, without a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from plugins.datasets.shapes.scene import draw
from plugins.models.sa2va import ask, buffers, generation
from plugins.models.sa2va.backend import Prompt
from plugins.models.sa2va.components import load
from plugins.models.sa2va.generation import Generated, common_beginning, greedy
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.output_layer import packed_head

ASSET = Path(__file__).parents[2] / "assets" / "sa2va-shapes"


@pytest.fixture(scope="module")
def model() -> Sa2va:
    """A trained model: its tokens are far apart, so that equality is no luck."""
    return load(checkpoint=ASSET, max_tiles=1).eval()


@pytest.fixture(scope="module")
def prompts(model: Sa2va) -> list[Prompt]:
    """Three requests of different lengths about one picture, and what they begin with alike is longer than ``WORTHWHILE``."""
    picture = torch.randint(256, (64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    vision, view = model.look(picture), torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        phrases = [model.embed(torch.tensor(model.text.ids(text))) for text in (" the red circle", " it", " a blue square on the left")]
        return model.sequences.segment(vision, view, phrases, ["Please segment"] * 3, [" in this image."] * 3)


def part(prompt: Prompt, chosen: slice) -> Prompt:
    """Some of its tokens as a prompt of its own."""
    embeddings = prompt.embeddings[chosen]
    return Prompt(embeddings, torch.arange(len(embeddings))[None])


@torch.no_grad()
def one_by_one(model: Sa2va, prompt: Prompt, length: int, ended: Callable[[list[int]], bool]) -> tuple[list[int], Tensor]:
    ids: list[int] = []
    while True:
        states = model.sequences.read([prompt.followed_by(model.embed(torch.tensor(ids, dtype=torch.long)))]).last[0]
        if len(ids) == length or (ids and ended(ids)):
            return ids, states[len(prompt) :]
        ids.append(int(model.network.llm.lm_head(states[-1]).argmax()))


@contextmanager
def reads(model: Sa2va) -> Iterator[list[tuple[int, int]]]:
    """(rows, tokens) of each forward of the language model."""
    seen: list[tuple[int, int]] = []
    hook = model.network.llm.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    yield seen
    hook.remove()


def same(model: Sa2va, found: Generated, prompts: list[Prompt], length: int, ended: Callable[[list[int]], bool]) -> None:
    for row, prompt in enumerate(prompts):
        ids, states = one_by_one(model, prompt, length, ended)
        assert found.ids[row] == ids
        known = len(found.states[row])
        assert len(ids) - 1 <= known <= len(ids)
        torch.testing.assert_close(found.states[row], states[:known], rtol=1e-4, atol=1e-4)


def test_the_common_beginning_is_read_once(model: Sa2va, prompts: list[Prompt]) -> None:
    with reads(model) as seen:
        found = greedy(model.network.backend, prompts, 12, model.text.ended)
    same(model, found, prompts, 12, model.text.ended)
    shared = common_beginning(prompts)
    assert shared >= model.network.config.backend.grid**2
    assert seen[0] == (1, shared)
    assert seen[1] == (3, max(map(len, prompts)) - shared)
    assert set(seen[2:]) == {(3, 1)}


def test_prompts_that_differ_from_the_start_or_are_alike(model: Sa2va, prompts: list[Prompt]) -> None:
    assert common_beginning(prompts[:1]) == 0
    assert common_beginning([prompts[0], prompts[0]]) == len(prompts[0]) - 1
    shifted, first = part(prompts[1], slice(1, None)), part(prompts[1], slice(1))
    assert common_beginning([prompts[0], shifted]) == 0
    for chosen in ([prompts[0], prompts[0]], [prompts[0], shifted], [first, prompts[0]]):
        same(model, greedy(model.network.backend, chosen, 9, model.text.ended), chosen, 9, model.text.ended)


@pytest.mark.parametrize("length", [1, 3, 40])
def test_expected_answers_change_no_token(model: Sa2va, prompts: list[Prompt], length: int) -> None:
    """Whatever is expected: the answer itself, one that goes wrong in the middle, or at once, or goes on after the end."""
    real = [one_by_one(model, prompt, 40, model.text.ended)[0] for prompt in prompts]
    other = model.text.ids(" circle")[0]
    wrong, longer = [*real[0][:2], other, *real[0][3:]], [*real[1], other, other]
    for expected in (real, [wrong], [[other] * 5], [longer], [[*real[2][:4], other], *real]):
        found = greedy(model.network.backend, prompts, length, model.text.ended, expected)
        same(model, found, prompts, length, model.text.ended)


def test_rows_that_take_different_numbers_of_expected_tokens(model: Sa2va, prompts: list[Prompt]) -> None:
    """A stop after 20 tokens; rows write different texts, and each row's own beginning is expected."""
    describe = [prompts[0], part(prompts[2], slice(len(prompts[2]) - 4)), part(prompts[1], slice(len(prompts[1]) - 3))]

    def ended(ids: list[int]) -> bool:
        return len(ids) == 20

    real = [one_by_one(model, prompt, 20, ended)[0] for prompt in describe]
    assert len({tuple(row) for row in real}) > 1
    expected = [[*row[: 3 + 4 * place], 0, 0] for place, row in enumerate(real)]
    same(model, greedy(model.network.backend, describe, 20, ended, expected), describe, 20, ended)


def test_an_expected_answer_needs_one_forward(model: Sa2va, prompts: list[Prompt]) -> None:
    real = [one_by_one(model, prompt, 40, model.text.ended)[0] for prompt in prompts]
    with reads(model) as seen:
        greedy(model.network.backend, prompts[:1], 40, model.text.ended, real)
    assert len(seen) == 1


def test_a_full_buffer_gets_room(model: Sa2va, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "SPARE", 2)

    def never(ids: list[int]) -> bool:
        return False

    same(model, greedy(model.network.backend, prompts, 15, never), prompts, 15, never)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_output_layer_gives_the_same_tokens(
    model: Sa2va, prompts: list[Prompt], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(ids: list[int]) -> bool:
        return False

    head = model.network.llm.lm_head.weight
    monkeypatch.setattr(head, "data", head.data.to(dtype))
    rounds: list[list[list[int]]] = []
    used: list[Tensor | None] = []

    def watched(layer: torch.nn.Module, rows: int) -> Tensor | None:
        used.append(packed_head(layer, rows))
        return used[-1]

    monkeypatch.setattr(generation, "packed_head", watched)
    for start in (10**6, 3):
        monkeypatch.setattr(generation, "PACKED", start)
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            rounds.append(greedy(model.network.backend, prompts, 30, never).ids)
    assert rounds[0] == rounds[1]
    assert len(used) == 1
    if used[0] is None:
        pytest.skip("this processor has no packed order")


def test_phrases_of_one_picture_get_the_masks_they_get_alone(model: Sa2va, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared, batched and with expected answers, against one at a time without them: text equal, no pixel differs."""
    image = draw((3, 1), 96).images[0]
    phrases = ["the red circle", "a large blue square", "the triangle on the left", "small green star at the top"]
    together = model.predict(image, phrases, 32)
    monkeypatch.setattr(ask, "greedy", lambda backend, heads, length, ended, expected: greedy(backend, heads, length, ended))
    for phrase, one in zip(phrases, together, strict=True):
        [alone] = model.predict(image, [phrase], 32)
        assert one.text == alone.text
        assert one.mask is not None
        assert alone.mask is not None
        assert (one.mask != alone.mask).sum() == 0
