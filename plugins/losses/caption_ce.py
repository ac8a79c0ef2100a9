"""Cross entropy of captions and fixed answers, without ever holding a [B, T, V] tensor.

Where the output layer is frozen, the gradient of the states is made in the forward pass, in one sweep over the vocabulary:
it is ``softmax(logits) @ weight - weight[target]``, and the first part is attention of the states over the rows of the
layer, for which the running softmax of Milakov and Gimelshein, arXiv:1805.02867, needs each logit once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contracts import NotNegative, ShareBelow1, Tokens
from core.late import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class CaptionCe:
    """Sum of token cross entropies over the real tokens; the engine divides by their number.

    ``weight`` is the term's weight in its loop; ``label_smoothing`` spreads that share of each target over the vocabulary.
    """

    def __init__(self, *, weight: NotNegative = 1.0, label_smoothing: ShareBelow1 = 0.0) -> None:
        if not weight >= 0:
            raise ValueError(f"weight must not be negative, but is {weight}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in 0..1 (1 excluded), not {label_smoothing}.")
        self.weight, self.label_smoothing = weight, label_smoothing

    def __call__(self, states: Tensor, tokens: Tokens, head: tuple[Tensor, Tensor | None]) -> Tensor:
        """[B, T, D] states, [B, T] tokens, output layer ([V, D], [V] or None) -> scalar float32.

        Padding has no part in it. Without a real token: a zero that still has a graph. The output layer may be trained.
        """
        from torch.utils.checkpoint import checkpoint

        from plugins.losses._frozen_layer import CHUNK_ELEMENTS, ROWS, Frozen  # late: they load torch

        weight, bias = head
        rows, targets = states[tokens.mask], tokens.ids[tokens.mask]  # [R, D], [R]
        if not any(part is not None and part.requires_grad for part in head):
            with torch.autocast(states.device.type, enabled=False):
                parts = [
                    Frozen.apply(*part, weight, bias, self.label_smoothing)
                    for part in zip(rows.split(ROWS), targets.split(ROWS), strict=True)
                ]
            return torch.stack(parts).sum()
        total = rows.new_zeros((), dtype=torch.float32)
        step = max(1, CHUNK_ELEMENTS // weight.shape[0])
        # without a real token there is one empty chunk, whose sum is a zero with a graph
        for chunk, wanted in zip(rows.split(step), targets.split(step), strict=True):
            # the logits are recomputed in backward instead of kept: one chunk of them exists at a time
            total = total + checkpoint(self._chunk, chunk, wanted, weight, bias, use_reentrant=False, preserve_rng_state=False)
        return total

    def _chunk(self, rows: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        logits = F.linear(rows.to(weight.dtype), weight, bias).float()  # [n, V]
        return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=self.label_smoothing)
