"""Point-sampled BCE + dice."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from core.contracts import Loss
from plugins.losses.bce_dice import BceDice, sample


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def masks(B: int = 3, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    logits = F.interpolate(torch.randn(B, 1, 4, 4, generator=source) * 4, (side, side), mode="bilinear")[:, 0]  # [B, side, side]
    return logits.requires_grad_(), torch.rand(B, side, side, generator=source) > 0.5


def test_constant_maps_have_the_closed_form():
    logits, target = torch.full((1, 64, 64), 0.4), torch.ones(1, 64, 64, dtype=torch.bool)
    n, p = 4000, torch.tensor(0.4).sigmoid()
    loss = BceDice(points=n, importance=0.0)
    inner = loss.choose(logits, generators(7)).clamp(1 / 128, 1 - 1 / 128)  # no point blends with the outside
    loss.choose = lambda *_: inner
    wanted = 2.0 * -p.log() + 0.5 * (1 - (2 * n * p + 1) / (n * p + n + 1))
    torch.testing.assert_close(loss(logits, target, generators(7)), wanted[None])


def test_samples_at_pixel_centres_are_the_pixels():
    maps = torch.randn(2, 4, 6)
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(6) + 0.5) / 6, indexing="ij")
    points = torch.stack([x, y], -1).reshape(1, 24, 2).expand(2, -1, -1)
    torch.testing.assert_close(sample(maps, points), maps.flatten(1))


def test_the_most_uncertain_points_are_chosen():
    logits, _ = masks()
    loss = BceDice(points=200, oversample=3.0, importance=0.75)
    points = loss.choose(logits.detach(), generators(1, 2, 3))  # [3, 200, 2]
    assert points.shape == (3, 200, 2)
    candidates = torch.rand(600 + 50, 2, generator=generators(2)[0])[None]
    uncertainty = sample(logits[1:2].detach(), candidates).abs()[0]
    wanted = candidates[0, :600][uncertainty[:600].argsort()[:150]]
    assert {tuple(p) for p in points[1, :150].tolist()} == {tuple(p) for p in wanted.tolist()}
    assert torch.equal(points[1, 150:], candidates[0, 600:])


def test_rows_do_not_depend_on_the_batch():
    logits, target = masks()
    loss = BceDice(points=500)
    together = loss(logits, target, generators(1, 2, 3))
    alone = torch.cat([loss(logits[b : b + 1], target[b : b + 1], generators(b + 1)) for b in range(3)])
    assert together.shape == (3,)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(together, loss(logits, target, generators(4, 5, 6)), rtol=1e-6)


def test_gradient_is_that_of_the_loss_at_fixed_points():
    logits, target = masks()
    loss = BceDice(points=300)
    (whole,) = torch.autograd.grad(loss(logits, target, generators(1, 2, 3)).sum(), logits)
    points = loss.choose(logits.detach(), generators(1, 2, 3))
    x, y = sample(logits, points), sample(target.float(), points)
    p = x.sigmoid()
    bce = -(y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x)).mean(1)
    dice = 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)
    (fixed,) = torch.autograd.grad((2 * bce + 0.5 * dice).sum(), logits)
    torch.testing.assert_close(whole, fixed)
    assert whole.abs().sum() > 0


def test_descent_finds_the_mask():
    target = torch.zeros(1, 16, 16, dtype=torch.bool)
    target[:, 4:11, 3:9] = True
    logits = torch.zeros(1, 16, 16, requires_grad=True)
    optimizer, loss = torch.optim.Adam([logits], 0.3), BceDice(points=256)
    for step in range(80):
        optimizer.zero_grad()
        loss(logits, target, generators(step)).sum().backward()
        optimizer.step()
    found = logits > 0
    assert (found & target).sum() / (found | target).sum() > 0.95


def test_empty_and_half_precision_masks_stay_finite():
    logits = torch.full((1, 32, 32), -200.0, dtype=torch.bfloat16, requires_grad=True)
    value = BceDice(points=64)(logits, torch.zeros(1, 32, 32, dtype=torch.bool), generators(0))
    value.sum().backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight", -1.0), ("bce_weight", -1.0), ("dice_weight", -0.1), ("points", 0), ("oversample", 0.5), ("importance", 1.5)],
)
def test_arguments_are_checked(name, value):
    assert isinstance(BceDice(), Loss)
    with pytest.raises(ValueError, match=f"^{name} must"):
        BceDice(**{name: value})


def test_a_missing_generator_is_named():
    logits, target = masks()
    with pytest.raises(ValueError, match="as many generators"):
        BceDice()(logits, target, generators(1))
