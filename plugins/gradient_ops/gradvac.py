"""GradVac: if two loops' gradients are less similar than usual, one is moved towards the other.

Source: Wang et al. 2020, "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively Multilingual
Models", arXiv:2010.05874, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.contracts import Gram, Share
from core.late import torch
from plugins.gradient_ops._blocks import Scope, Scoped

if TYPE_CHECKING:
    from torch import Tensor


class Gradvac(Scoped):
    """``g = sum_i s_i g_i'``: g_i' gets so much of g_j that their cosine is at least its running mean, one j after the other.

    decay: share of the new cosine in the running mean (the paper's beta), which starts at 0 for each pair and group.
    The paper draws the order of the j at random; here after i come i + 1, i + 2, ..., so that an update can be repeated.
    """

    def __init__(self, *, decay: Share = 0.01, scope: Scope = "global") -> None:
        super().__init__(scope)
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie in 0..1, not {decay}.")
        self.decay = decay
        self._usual: dict[str, float] = {}  # "group/loop_i/loop_j" -> running mean of their cosine

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64. Moves the running means."""
        names = ["all"] if self.scope == "global" else gram.groups
        rows = [gram.scales @ self._vaccinated(G, name, gram.loops) for name, G in zip(names, self.blocks(gram), strict=True)]
        return torch.stack(rows).expand(len(gram.groups), -1).clone()

    def _vaccinated(self, G: Tensor, block: str, loops: tuple[str, ...]) -> Tensor:
        """[n, n]: row i has g_i' in terms of the g_j."""
        n = len(loops)
        C, norms = torch.eye(n, dtype=torch.float64), G.diagonal().clamp_min(0).sqrt()
        for i in range(n):
            for j in ((i + step) % n for step in range(1, n)):
                own = float((C[i] @ G @ C[i]).clamp_min(0).sqrt())  # |g_i'|
                if own * norms[j] == 0:
                    continue
                cosine = max(-1.0, min(1.0, float(C[i] @ G[:, j]) / (own * float(norms[j]))))
                key = f"{block}/{loops[i]}/{loops[j]}"
                usual = self._usual.get(key, 0.0)
                if cosine < usual < 1:
                    sine, usual_sine = (1 - cosine**2) ** 0.5, (1 - usual**2) ** 0.5
                    C[i, j] += own * (usual * sine - cosine * usual_sine) / (float(norms[j]) * usual_sine)
                self._usual[key] = (1 - self.decay) * usual + self.decay * cosine
        return C

    def state_dict(self) -> dict[str, Any]:
        """The running means."""
        return {"usual": dict(self._usual)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over saved running means."""
        self._usual = {key: float(value) for key, value in state["usual"].items()}
