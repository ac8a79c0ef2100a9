"""What is logged of the surgery in every update: from the Gram matrix and the weights alone, so that it costs nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.contracts import Gram


def diagnostics(gram: Gram, weights: Tensor | None) -> dict[str, float]:
    """Over all parameters and, under ``.../GROUP``, in each parameter group.

    ``weights`` [P, n] are the gradient op's; None: the update is no weighted sum, and nothing is said of weights and of what is kept.

    ``surgery/norm/LOOP``: length of its gradient; ``surgery/weight/LOOP``: its coefficient in the update, the mean over blocks.
    ``surgery/cosine/A_B``, and ``surgery/conflict/A_B``: the share of groups in which the two conflict, 0 or 1 in a group.
    ``surgery/kept``: how much of the plain weighted sum s the update u keeps, ``<u, s> / <s, s>``; 1 for the sum itself.
    """
    values: dict[str, float] = {}
    groups = [name.split("/")[0] for name in gram.groups]  # a block is a group or, as group/name, one of its parameters
    names = list(dict.fromkeys(groups))
    member = torch.tensor([[group == name for group in groups] for name in names], dtype=torch.float64)  # [groups, P]
    inner = torch.einsum("gp,pij->gij", member, gram.values)  # [groups, n, n]
    given = gram.scales.expand(len(gram.groups), -1) if weights is None else weights
    update = torch.einsum("gp,pi,pij,j->g", member, given, gram.values, gram.scales)  # [groups], <u, s>
    plain = torch.einsum("gij,i,j->g", inner, gram.scales, gram.scales)  # [groups], <s, s>
    mean = member @ given / member.sum(1, keepdim=True)  # [groups, n]
    parts = [("", inner.sum(0), given.mean(0), update.sum(), plain.sum())]
    parts += [("/" + name, inner[g], mean[g], update[g], plain[g]) for g, name in enumerate(names)]
    for where, G, w, u, s in parts:
        for i, loop in enumerate(gram.loops):
            values[f"surgery/norm/{loop}{where}"] = math.sqrt(max(float(G[i, i]), 0.0))
            if weights is not None:
                values[f"surgery/weight/{loop}{where}"] = float(w[i])
            for j in range(i):
                pair = f"{gram.loops[j]}_{loop}"
                values[f"surgery/cosine/{pair}{where}"] = cosine(G, i, j)
                conflict = float(G[i, j] < 0) if where else float((inner[:, i, j] < 0).double().mean())
                values[f"surgery/conflict/{pair}{where}"] = conflict
        if float(s) > 0 and weights is not None:
            values[f"surgery/kept{where}"] = float(u) / float(s)
    return values


def cosine(gram: Tensor, i: int, j: int) -> float:
    """Cosine of two gradients from their Gram matrix [n, n]; 0 where one of them is zero."""
    scale = math.sqrt(max(float(gram[i, i] * gram[j, j]), 0.0))
    return float(gram[i, j]) / scale if scale else 0.0
