"""Adapters keep little for the backward pass, and compute what PEFT's own compute, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2Model

from plugins.models.sa2va.adapted import AdaptedLinear, lean_feed_forward

Autocast = Callable[[], AbstractContextManager[object]]
FP32: Autocast = nullcontext
BF16: Autocast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def language_model(lean: bool, dropout: float, frozen: torch.dtype, **changes: object) -> Qwen2Model:
    """Three layers with adapters that are not zero; the same for both ways."""
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=24, intermediate_size=36, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=8
    )
    model = adapted(
        Qwen2Model(config).to(frozen), lean, LoraConfig(r=3, lora_alpha=6, lora_dropout=dropout, target_modules=NAMES, **changes)
    )  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape) / 5
    return model.train()


def adapted(model: Qwen2Model, lean: bool, config: LoraConfig) -> Qwen2Model:
    if lean:
        config._register_custom_module({nn.Linear: AdaptedLinear})
    inject_adapter_in_model(config, model)
    if lean:
        lean_feed_forward(model)
    return model


def update(model: Qwen2Model, inputs: Tensor, autocast: Autocast) -> dict[str, Tensor]:
    """Output, gradients, and what the random generator gives next."""
    given = inputs.clone().requires_grad_()
    torch.manual_seed(7)
    with autocast():
        output = model(inputs_embeds=given, use_cache=False).last_hidden_state
    (output.float() * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return gradients | {"output": output, "input": given.grad, "next": torch.rand(3)}  # type: ignore[dict-item]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    ("frozen", "autocast"), [(torch.float32, FP32), (torch.float32, BF16), (torch.bfloat16, BF16)], ids=["float32", "autocast", "bfloat16"]
)
def test_they_compute_what_pefts_compute(dropout: float, frozen: torch.dtype, autocast: Autocast) -> None:
    inputs = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1)).to(frozen)
    theirs = update(language_model(False, dropout, frozen), inputs, autocast)
    ours = update(language_model(True, dropout, frozen), inputs, autocast)
    assert theirs.keys() == ours.keys()
    assert len(ours) == 3 + 3 * 2 * len(NAMES)
    for name, value in theirs.items():
        assert value.abs().sum() > 0, name
        assert torch.equal(ours[name], value), (name, (ours[name] - value).abs().max())


def kept(model: nn.Module, inputs: Tensor, autocast: Autocast) -> int:
    """Bytes that a forward keeps for its backward pass beside weights and buffers; each storage once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, int] = {}
    held = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # or another could be given its place
        return tensor

    with autocast(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    del output
    return sum(storages.values())


def of_a_layer(lean: bool, tokens: int = 16) -> float:
    """KiB that one layer of the 4B model's language model (Qwen2.5-3B) keeps of each token: what two layers keep less what one keeps."""
    found = []
    for layers in (1, 2):
        with torch.device("meta"):
            config = Qwen2Config(
                hidden_size=2048,
                intermediate_size=11008,
                num_hidden_layers=layers,
                num_attention_heads=16,
                num_key_value_heads=2,
                vocab_size=8,
            )
            config._attn_implementation = "sdpa"
            model = adapted(Qwen2Model(config), lean, LoraConfig(r=128, lora_alpha=256, lora_dropout=0.05, target_modules=NAMES))
        model = model.to_empty(device="cpu").train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
            parameter.data = torch.zeros(parameter.shape, dtype=torch.float32 if ".lora_" in name else torch.bfloat16)
        inputs = torch.ones(1, tokens, 2048, dtype=torch.bfloat16, requires_grad=True)
        found.append(kept(model, inputs, BF16))
    return (found[1] - found[0]) / tokens / 1024


def test_a_layer_of_4b_keeps_at_most_90_kib_of_a_token() -> None:
    assert of_a_layer(True) <= 90


@pytest.mark.parametrize("change", [{"use_dora": True}, {"use_rslora": True}, {"lora_bias": True}])
def test_other_adapters_are_left_to_peft(change: dict[str, bool]) -> None:
    inputs = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    models = [language_model(lean, 0.3, torch.float32, **change, bias="none") for lean in (False, True)]
    theirs, ours = (update(model, inputs, FP32) for model in models)
    for name, value in theirs.items():  # RSLoRA's scaling is no power of two
        assert (ours[name] - value).abs().max() <= (1e-5 * value.abs().max() if "use_rslora" in change else 0), name
    layer = models[1].layers[0].mlp.down_proj
    assert isinstance(layer, AdaptedLinear)
    assert (layer.single() is None) == ("use_rslora" not in change)  # a scale alone is no other adapter
    assert models[0].state_dict().keys() == models[1].state_dict().keys()


def test_merged_disabled_and_several_adapters_are_left_to_peft() -> None:
    model = language_model(True, 0.0, torch.float32)
    layer = model.layers[0].self_attn.q_proj
    assert layer.single() == "default"
    x = torch.randn(2, 24)
    with torch.no_grad():
        expected = layer(x)
    layer.merge()
    assert layer.single() is None
    assert torch.allclose(layer(x), expected, atol=1e-5)
    layer.unmerge()
    layer.enable_adapters(False)
    assert layer.single() is None
    assert torch.allclose(layer(x), layer.base_layer(x), atol=1e-5)
    layer.enable_adapters(True)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=NAMES), model, adapter_name="other")
    layer.set_adapter(["default", "other"])
    assert layer.single() is None
    layer.set_adapter("default")
    with disable_input_dtype_casting(model):
        assert layer.single() is None


def test_frozen_adapters_get_no_gradient_and_keep_no_input() -> None:
    model = language_model(True, 0.3, torch.float32)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    inputs = torch.randn(1, 5, 24)
    found = update(model, inputs, FP32)
    assert found["input"].abs().sum() > 0
    assert found.keys() == {"output", "input", "next"}


def test_what_is_drawn_between_forward_and_backward_changes_nothing() -> None:
    """Backward draws the dropout again, and leaves the generator where it was."""
    inputs = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    found = []
    for drawn in (0, 3):
        model = language_model(True, 0.3, torch.float32)
        torch.manual_seed(7)
        output = model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        torch.rand(drawn)
        before = torch.get_rng_state()
        output.square().sum().backward()
        assert torch.equal(torch.get_rng_state(), before)
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
