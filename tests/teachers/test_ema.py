"""The float32 shadow of the trained weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.contracts import Teacher, UserError
from plugins.teachers.ema import Ema


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    model[0].requires_grad_(False)
    return model


def groups(model):
    return {"projector": [("weight", model[1].weight)], "lora": [("bias", model[1].bias)]}


def started(model, decay=0.9):
    teacher = Ema(decay=decay)
    teacher.start(groups(model))
    return teacher


def test_shadow_follows_the_formula(model):
    teacher = started(model)
    shadow = model[1].weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            model[1].weight += step
        teacher.update()
        shadow = 0.9 * shadow + 0.1 * model[1].weight.detach()
    torch.testing.assert_close(teacher.state_dict()["projector/weight"], shadow)


def test_small_steps_arrive():
    """500 updates at decay 0.999 go 39 % of the way; in bfloat16 they would stall at a fraction of that."""
    parameter = nn.Parameter(torch.ones(100))
    teacher = Ema(decay=0.999)
    teacher.start({"lora": [("a", parameter)]})
    with torch.no_grad():
        parameter += 0.01
    for _ in range(500):
        teacher.update()
    moved = (teacher.state_dict()["lora/a"] - 1) / 0.01
    torch.testing.assert_close(moved, torch.full((100,), 1 - 0.999**500), rtol=0.01, atol=0)


def test_the_distance_of_the_student(model):
    teacher = started(model)
    assert teacher.statistics() == {"distance": 0.0}
    shadow = torch.cat([tensor.flatten() for tensor in teacher.state_dict().values()])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    assert teacher.statistics()["distance"] == pytest.approx(0.5 * len(shadow) ** 0.5 / float(shadow.norm()))


def test_weights_swaps_pointers_and_holds_only_trained_parameters(model):
    teacher = started(model)
    with torch.no_grad():
        model[1].weight += 1
    x, student = torch.randn(3, 4), model[1].weight.data_ptr()
    before = model(x)
    with teacher.weights():
        inside = model(x)
        assert model[1].weight.data_ptr() == teacher.state_dict()["projector/weight"].data_ptr()  # no copy
        assert not inside.requires_grad
    assert model[1].weight.data_ptr() == student
    assert torch.equal(model(x), before)
    assert not torch.allclose(inside, before)
    assert set(teacher.state_dict()) == {"projector/weight", "lora/bias"}
    assert model(x).requires_grad


def test_weights_are_restored_after_an_error(model):
    teacher = started(model)
    student = [p.data_ptr() for p in model.parameters()]
    with pytest.raises(KeyError), teacher.weights():
        raise KeyError("stop")
    assert [p.data_ptr() for p in model.parameters()] == student
    assert torch.is_grad_enabled()


def test_a_graph_made_before_the_teacher_ran_still_has_its_gradient(model):
    x = torch.randn(3, 4)
    loss = model(x).square().sum()
    wanted = torch.autograd.grad(model(x).square().sum(), model[1].weight)[0]
    teacher = started(model)
    with torch.no_grad():
        teacher.state_dict()["projector/weight"].mul_(3)
    with teacher.weights():
        model(x)
    assert torch.equal(torch.autograd.grad(loss, model[1].weight)[0], wanted)


def test_state_goes_round(model):
    teacher = started(model)
    with torch.no_grad():
        model[1].weight += 1
    teacher.update()
    saved = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    other = started(model)
    assert not torch.equal(other.state_dict()["projector/weight"], saved["projector/weight"])
    other.load_state_dict(saved)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in saved.items())
    saved["projector/weight"].zero_()
    assert other.state_dict()["projector/weight"].any()  # a copy was taken


def test_a_state_that_does_not_fit_is_refused_with_all_names(model):
    teacher = started(model)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    with pytest.raises(UserError) as error:
        teacher.load_state_dict({"projector/weight": torch.zeros(3, 3), "lora/other": torch.zeros(1)})
    for part in ("missing lora/bias", "unknown lora/other", "projector/weight is [3, 3] instead of [2, 8]"):
        assert part in str(error.value)
    assert all(torch.equal(teacher.state_dict()[name], tensor) for name, tensor in before.items())


def test_misuse_is_refused(model):
    assert isinstance(Ema(), Teacher)
    for use in (lambda e: e.update(), lambda e: e.state_dict(), lambda e: e.load_state_dict({}), lambda e: e.weights().__enter__()):
        with pytest.raises(RuntimeError, match="before start"):
            use(Ema())
    with pytest.raises(ValueError, match="float32 parameters, but lora/a is"):
        Ema().start({"lora": [("a", nn.Parameter(torch.zeros(1, dtype=torch.bfloat16)))]})
    with pytest.raises(ValueError, match="decay must"):
        Ema(decay=1.0)


def test_autocast_mixes_neither_models_casts_nor_their_gradient(model):
    """In one autocast block the student and the teacher take turns, in either order."""
    model.requires_grad_(True)
    teacher = Ema(decay=0.9)
    teacher.start({"all": list(model.named_parameters())})
    x = torch.randn(3, 4)
    with torch.autocast("cpu", torch.bfloat16), teacher.weights():
        wanted = model(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    with torch.autocast("cpu", torch.bfloat16):
        student = model(x)
        with teacher.weights():
            assert torch.equal(model(x), wanted)
        again = model(x)
    assert torch.equal(student, again)
    again.sum().backward()  # not the teacher's casts, which were made without gradient
    assert model[1].weight.grad.norm() > 0
