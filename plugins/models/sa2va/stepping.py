"""One token after another with few operations, for a language model of Qwen2's, Qwen-VL's or Llama's kind under PEFT's adapters.

What transformers' layers do with some eighty operations is done here with twenty-five: weights that read the same numbers are one
matrix, an adapter is two products and no cast, keys and values are written where they stay. All of it lies in place, so that on
CUDA a step is captured once and replayed. The sums are those of the layers but for the order of their terms.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plugins.models.sa2va.adapted import AdaptedLinear
from plugins.models.sa2va.output_layer import next_tokens

#: By name: a model of one family need not import the others. Of Qwen-VL, a token of text has three equal positions: as those of one.
_KNOWN = {
    "transformers.models.llama.modeling_llama.LlamaDecoderLayer",
    "transformers.models.qwen2.modeling_qwen2.Qwen2DecoderLayer",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLDecoderLayer",
    "transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLTextDecoderLayer",
}
_ROPES = ("default", "dynamic")  # "dynamic" changes nothing up to max_position_embeddings


class Other(Exception):
    """A layer that is not computed here."""


@dataclass
class _Product:
    """One or several linear layers of the same input as one matrix, and their adapters as two."""

    weight: Tensor  # [m, n]
    bias: Tensor | None  # [m]
    a: Tensor | None  # [r, n]
    b: Tensor | None  # [m, r], times the adapters' scaling

    @classmethod
    def of(cls, kind: torch.dtype, *layers: nn.Module) -> _Product:
        """Copies nothing where it is a single layer without adapter. Raises ``Other``."""
        bases: list[nn.Linear] = []
        downs: list[Tensor] = []
        ups: list[Tensor] = []
        for layer in layers:
            base: Any = layer.base_layer if isinstance(layer, AdaptedLinear) else layer
            if type(base) is not nn.Linear or base.weight.dtype != kind:
                raise Other
            bases.append(base)
            if isinstance(layer, AdaptedLinear) and not layer.merged:
                if (name := layer.single()) is None:
                    raise Other
                pair: Any = (layer.lora_A[name], layer.lora_B[name])
                downs.append(pair[0].weight)
                ups.append(pair[1].weight * layer.scaling[name])
            else:
                downs.append(base.weight.new_empty(0, base.in_features))
                ups.append(base.weight.new_empty(base.out_features, 0))
        biases: list[Tensor] = [base.weight.new_zeros(base.out_features) if base.bias is None else base.bias for base in bases]
        bias = None if all(base.bias is None for base in bases) else torch.cat(biases)
        weights: list[Tensor] = [base.weight for base in bases]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        adapted = any(len(down) for down in downs)
        a = torch.cat([down.to(kind) for down in downs]) if adapted else None
        b = torch.block_diag(*ups).to(kind) if adapted else None
        return cls(weight, bias, a, b)

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """[B, n] -> [B, m], added to ``onto`` (then without bias)."""
        added = self.bias if onto is None else onto
        result = x @ self.weight.T if added is None else torch.addmm(added, x, self.weight.T)
        if self.a is not None and self.b is not None:
            result = torch.addmm(result, x @ self.a.T, self.b.T)
        return result


class _Layer:
    """A decoder layer with its keys and values."""

    keys: Tensor  # [B, KV, S, d], with room
    values: Tensor

    def __init__(self, layer: Any, kind: torch.dtype) -> None:
        """Raises ``Other``."""
        if f"{type(layer).__module__}.{type(layer).__qualname__}" not in _KNOWN:
            raise Other
        attention, mlp = layer.self_attn, layer.mlp
        window = getattr(attention, "sliding_window", None)  # Llama has none
        silu = isinstance(mlp.act_fn, nn.SiLU) or type(mlp.act_fn).__name__ == "SiLUActivation"
        if window is not None or not silu:
            raise Other
        self.attention, self.before, self.after = attention, layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = _Product.of(kind, attention.q_proj, attention.k_proj, attention.v_proj)
        self.out, self.down = _Product.of(kind, attention.o_proj), _Product.of(kind, mlp.down_proj)
        if self.out.bias is not None or self.down.bias is not None:
            raise Other
        self.gate, self.up = _Product.of(kind, mlp.gate_proj), _Product.of(kind, mlp.up_proj)
        self.normed: Tensor | None = None  # [H + KV, d], the weights of Qwen3's norms of queries and keys
        if hasattr(attention, "q_norm"):
            heads = len(self.qkv.weight) // attention.head_dim  # H + 2 KV
            groups = heads // (attention.num_key_value_groups + 2)  # KV
            weights = (attention.q_norm.weight.expand(heads - 2 * groups, -1), attention.k_norm.weight.expand(groups, -1))
            self.normed = torch.cat(weights)

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, slot: Tensor, mask: Tensor) -> Tensor:
        """[B, D] -> [B, D]; cos and sin [B, 1, d], slot [1], mask [B, 1, 1, S]."""
        batch, groups, _, width = self.keys.shape
        heads = self.qkv(_norm(self.before, x)).view(batch, -1, width)  # [B, H + 2 KV, d]
        query, value = heads[:, : -2 * groups], heads[:, -groups:]
        turned = heads[:, :-groups]  # [B, H + KV, d]
        if self.normed is not None:
            turned = F.rms_norm(turned, (width,), eps=self.attention.q_norm.variance_epsilon) * self.normed
        turned = torch.addcmul(turned * cos, turned.roll(width // 2, -1), sin)
        self.keys.index_copy_(2, slot, turned[:, -groups:, None])
        self.values.index_copy_(2, slot, value[:, :, None])
        # the heads of a group ask the same keys: they stand where several tokens would
        query = turned[:, :-groups].view(batch, groups, -1, width)  # [B, KV, H / KV, d]
        seen = F.scaled_dot_product_attention(query, self.keys, self.values, attn_mask=mask, scale=self.attention.scaling)
        x = self.out(seen.reshape(batch, -1), onto=x)
        inner = _norm(self.after, x)
        return self.down(F.silu(self.gate(inner)) * self.up(inner), onto=x)


def _norm(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


class Steps:
    """Writes tokens after a prompt; every tensor that a step reads or writes stays where it is."""

    def __init__(self, llm: Any, device: torch.device, longest: int) -> None:
        """``longest``: prompt and tokens together. Raises ``Other``."""
        self.llm, self.kind = llm, llm.model.embed_tokens.weight.dtype
        if torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) != self.kind:
            raise Other  # weights would have to be cast for each token
        rope = llm.config.rope_parameters["rope_type"]
        if rope not in _ROPES or (rope == "dynamic" and longest > llm.config.max_position_embeddings):
            raise Other
        with torch.autocast(device.type, enabled=False):
            self.layers = [_Layer(layer, self.kind) for layer in llm.model.layers]

    def begin(self, cache: Sequence[Any], real: Tensor, start: Tensor, first: Tensor, length: int) -> None:
        """After a prompt that ``cache`` (of ``Buffered``) holds, with ``length`` tokens to come after ``first`` [B].

        ``real`` [B, s]: which keys count; ``start`` [B]: the position of each row's first token.
        """
        (batch, read), device, weight = real.shape, real.device, self.llm.model.embed_tokens.weight
        for layer, held in zip(self.layers, cache, strict=True):
            layer.keys, layer.values = held.room(length)
        with torch.autocast(device.type, enabled=False):
            cos, sin = self.llm.model.rotary_emb(weight, start[:, None] + torch.arange(length, device=device))  # [B, length, d]
        half = cos.shape[-1] // 2
        self.cos, self.sin = cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)
        self.slot, self.turn = torch.tensor([read], device=device), torch.zeros(1, dtype=torch.long, device=device)
        self.mask = weight.new_full((batch, 1, 1, self.layers[0].keys.shape[2]), float("-inf"))
        self.mask[:, 0, 0, :read].masked_fill_(real.bool(), 0)
        self.token = first.clone()
        self.done = 0  # steps so far
        self.written = torch.empty(batch, length, dtype=torch.long, device=device)  # the tokens after ``first``
        self.replay: Callable[[], Any] | None = None  # never a method of its own: a cycle would hold keys and values through the update
        self.graphs = device.type == "cuda"

    def take(self, count: int) -> list[list[int]]:
        """B rows of the next ``count`` tokens: the host waits once."""
        start = self.done
        for _ in range(count):
            if self.graphs and self.done and self.replay is None:  # the first step, as it is, lets libraries allocate what they need
                self.replay = captured(self._step)
                self.graphs = self.replay is not None
            (self.replay or self._step)()
            self.done += 1
        return self.written[:, start : self.done].tolist()

    @torch.no_grad()
    def _step(self) -> None:
        with torch.autocast(self.token.device.type, enabled=False):
            x = self.llm.model.embed_tokens(self.token)  # [B, D]
            cos, sin = self.cos.index_select(1, self.turn), self.sin.index_select(1, self.turn)  # [B, 1, d]
            self.mask.index_fill_(3, self.slot, 0)
            for layer in self.layers:
                x = layer(x, cos, sin, self.slot, self.mask)
            x = _norm(self.llm.model.norm, x)
            self.token.copy_(next_tokens(self.llm.lm_head, x[:, None])[:, 0])
            self.written.index_copy_(1, self.turn, self.token[:, None])
            self.slot += 1
            self.turn += 1


def captured(step: Callable[[], None]) -> Callable[[], Any] | None:
    """``step`` as a CUDA graph, to be replayed; None, with a warning, where it cannot be captured."""
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # nothing is computed yet
            step()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"the step that writes a token could not be captured as a CUDA graph and runs without ({reason})", stacklevel=2)
        return None
    return graph.replay
