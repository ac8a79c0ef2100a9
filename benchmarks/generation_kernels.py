"""Kernels of one token of the teacher at 4B, counted without a GPU: python -m benchmarks.generation_kernels

The language model of the 4B checkpoint (Qwen2.5-3B under adapters, frozen weights in bfloat16) is made of fake tensors, which have
shapes and no numbers. Every operation that is no view counts as one kernel. ``layers``: transformers' layers under PEFT, one token
with a cache. ``step``: the toolkit's, whose norms are one kernel each on CUDA and are counted so.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Qwen2Config

from plugins.models.sa2va import stepping
from plugins.models.sa2va.adapted import AdaptedLinear
from plugins.models.sa2va.buffers import buffered
from plugins.models.sa2va.stepping import Steps


class Operations(TorchDispatchMode):
    """Counts what is no view and makes no tensor without writing into it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if not function.is_view and name not in (
            "empty",
            "empty_like",
            "empty_strided",
            "_reshape_alias",
            "_unsafe_view",
            "detach",
            "device",
        ):
            self.seen[name] += 1
        return function(*given, **(named or {}))


def language_model(layers: int, mode: FakeTensorMode) -> Any:
    config = Qwen2Config(
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=2,
        vocab_size=151_674,
        max_position_embeddings=32_768,
    )
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapters = LoraConfig(r=128, lora_alpha=256, target_modules=names)
    adapters._register_custom_module({nn.Linear: AdaptedLinear})
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
        inject_adapter_in_model(adapters, llm)
    with mode:
        for name, module in llm.named_modules():
            for key, tensor in module._parameters.items():
                if tensor is not None:
                    adapter = ".lora_" in name
                    fake = torch.empty(tensor.shape, dtype=torch.float32 if adapter else torch.bfloat16)
                    module._parameters[key] = nn.Parameter(fake, requires_grad=adapter)
            for key, tensor in module._buffers.items():
                module._buffers[key] = None if tensor is None else torch.empty(tensor.shape, dtype=tensor.dtype)
    return llm.eval()


@contextmanager
def one_kernel_norms(operations: Operations) -> Iterator[None]:
    """Inside it a norm of the step counts as one operation, whatever it is made of on a CPU."""
    norm = stepping._norm

    def counted(layer: Any, x: torch.Tensor) -> torch.Tensor:
        before = operations.seen.copy()
        result = norm(layer, x)
        operations.seen = before + Counter({"rms_norm": 1})
        return result

    with patch.object(stepping, "_norm", counted):
        yield


@torch.no_grad()
def count(layers: int, batch: int, prompt: int) -> dict[str, Counter[str]]:
    """Operations of one token each way."""
    found = {}
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    llm = language_model(layers, mode)
    with mode, torch.autocast("cpu", torch.bfloat16):
        cache = buffered(layers)
        real = torch.ones(batch, prompt, dtype=torch.long)
        llm.model(inputs_embeds=torch.empty(batch, prompt, 2048, dtype=torch.bfloat16), past_key_values=cache, use_cache=True)
        steps = Steps(llm, torch.device("cpu"), prompt + 8)
        steps.begin(cache.layers, real, real.sum(1), torch.zeros(batch, dtype=torch.long), 8)
        operations = Operations()
        with one_kernel_norms(operations), operations:
            steps._step()
        found["step"] = operations.seen
        token = torch.empty(batch, 1, 2048, dtype=torch.bfloat16)
        for _ in range(2):  # casts of the adapters are made once and cached
            with Operations() as operations:
                llm.lm_head(llm.model(inputs_embeds=token, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]).argmax(-1)
        found["layers"] = operations.seen
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 36), ("batch", 16), ("prompt", 1893)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    for way, seen in count(args.layers, args.batch, args.prompt).items():
        print(f"{way}: {seen.total()} kernels a token; " + ", ".join(f"{name} {number}" for name, number in seen.most_common(12)))


if __name__ == "__main__":
    main()
