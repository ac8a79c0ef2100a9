"""The Gramian weightings of TorchJD, an optional package.

Source: Quinton and Rey 2024, "Jacobian Descent for Multi-Objective Optimization", arXiv:2406.16232; https://torchjd.org.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from core.contracts import Gram, UserError
from core.late import torch
from plugins.gradient_ops._blocks import Scope, Scoped

if TYPE_CHECKING:
    from torch import Tensor


Weighting = Literal[
    "aligned_mtl", "cagrad", "dual_proj", "fair_grad", "imtl_g", "krum", "mgda", "pcgrad", "upgrad"
]  # not the stateful ones: their state has no format that could be saved
CLASSES = {
    "aligned_mtl": "AlignedMTL", "cagrad": "CAGrad", "dual_proj": "DualProj", "fair_grad": "FairGrad", "imtl_g": "IMTLG",
    "krum": "Krum", "mgda": "MGDA", "pcgrad": "PCGrad", "upgrad": "UPGrad",
}  # fmt: skip
RIDGE = 1e-10  # of the mean squared norm: parallel gradients have a singular matrix


class TorchJd(Scoped):
    """``g = sum_i v_i s_i g_i`` with v of a TorchJD weighting of the scaled gradients' Gram matrix.

    weighting: its name. options: arguments of its constructor, such as ``{c: 0.4}`` of cagrad.
    A weighting that draws at random (pcgrad) draws the same in every update, so that ranks agree and a run can be repeated.
    """

    def __init__(self, *, weighting: Weighting = "upgrad", options: dict[str, Any] | None = None, scope: Scope = "global") -> None:
        super().__init__(scope)
        self.weighting = weighting
        if weighting not in get_args(Weighting):
            raise ValueError(f"weighting must be one of {', '.join(get_args(Weighting))}, not {weighting!r}.")
        try:
            from torchjd import aggregation, linalg

            # theirs is made for float32: it blurs the matrix by 1e-4, and with it gradients a hundred times shorter than others
            exact = {"projector": linalg.QuadprogProjector(reg_eps=RIDGE)} if weighting in ("upgrad", "dual_proj") else {}
            self._weighting = getattr(aggregation, CLASSES[weighting] + "Weighting")(**exact | (options or {}))
        except ImportError as error:  # TorchJD's own message names the packages that a weighting needs beyond it
            raise UserError(f"weighting {weighting!r} needs TorchJD ({error}): pip install 'dualloop[torchjd]'") from None
        except TypeError as error:
            raise UserError(f"options do not fit TorchJD's {weighting}: {error}") from None

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64."""
        return self.scaled(gram, self._solve)

    def _solve(self, G: Tensor) -> Tensor:
        if self.weighting != "fair_grad":  # the only one that sees how long the gradients are; some others take short ones for zero
            G = G / G.diagonal().mean()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self._weighting(G).double()
