"""One loop's gradient in flat float32 buffers, one for each parameter group, and the Gram matrix of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Groups = Mapping[str, Sequence[tuple[str, nn.Parameter]]]
CHUNK = 2**22  # numbers of a gradient that are looked at together: 32 MiB in float64
Mix = Callable[[Tensor], Tensor]  # [n, m] -> [m]


class Gradients:
    """Buffers into which backward passes accumulate directly: ``.grad`` of each parameter is a view while collecting."""

    def __init__(self, groups: Groups, whole: Tensor | None = None) -> None:
        """``whole``: [numel] float32, where the buffers shall lie one after the other; None: memory of their own."""
        self.groups = groups
        sizes = {name: sum(p.numel() for _, p in members) for name, members in groups.items()}
        device = next(p.device for members in groups.values() for _, p in members)
        self.whole = torch.zeros(sum(sizes.values()), device=device) if whole is None else whole
        self.flat: dict[str, Tensor] = dict(zip(sizes, self.whole.split(list(sizes.values())), strict=True))  # group -> [numel] float32
        self.touched: set[nn.Parameter] = set()  # parameters that some backward pass reached

    def views(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each parameter with its part of the buffer, in its shape."""
        for name, members in self.groups.items():
            parts = self.flat[name].split([p.numel() for _, p in members])
            for (_, parameter), part in zip(members, parts, strict=True):
                yield parameter, part.view_as(parameter)

    def blocks(self, per_parameter: bool = False) -> dict[str, Tensor]:
        """The buffers that surgery weighs: of each group, or of each ``group/parameter``; flat [numel] float32."""
        if not per_parameter:
            return self.flat
        names = [f"{group}/{name}" for group, members in self.groups.items() for name, _ in members]
        return dict(zip(names, (view.view(-1) for _, view in self.views()), strict=True))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Backward passes inside add to the buffers, from zero; afterwards no parameter holds a gradient."""
        self.touched.clear()
        hooks = []
        self.whole.zero_()
        for parameter, view in self.views():
            parameter.grad = view
            hooks.append(parameter.register_post_accumulate_grad_hook(self.touched.add))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for parameter, view in self.views():
                if parameter.grad is not None and parameter.grad.data_ptr() != view.data_ptr():
                    raise RuntimeError("a backward pass replaced a gradient buffer instead of adding to it")
                parameter.grad = None


def gram(gradients: Sequence[Gradients], per_parameter: bool = False) -> Tensor:
    """[P, n, n] float64: inner products of n gradients within each of P groups or parameters."""
    blocks = [gradient.blocks(per_parameter) for gradient in gradients]
    n, upper = len(blocks), torch.triu_indices(len(blocks), len(blocks))  # [2, n (n + 1) / 2]
    products = [inner(blocks[i][name], blocks[j][name]) for name in blocks[0] for i, j in upper.T.tolist()]
    values = torch.zeros(len(blocks[0]), n, n, dtype=torch.float64)
    found = torch.stack(products).cpu().view(len(blocks[0]), -1)  # [P, n (n + 1) / 2]; a GPU is waited for once
    values[:, upper[0], upper[1]] = values[:, upper[1], upper[0]] = found
    return values


def inner(first: Tensor, second: Tensor) -> Tensor:
    """Scalar float64 on the gradients' device: a cosine near zero is a difference of large numbers.

    Chunk by chunk: float64 copies of whole gradients would take four gradients' memory.
    """
    parts = zip(first.split(CHUNK), second.split(CHUNK), strict=True)
    return torch.stack([torch.dot(a.double(), b.double()) for a, b in parts]).sum()


def combine(gradients: Sequence[Gradients], weights: Tensor, mixed: Mapping[str, Mix] = {}) -> None:
    """Writes ``sum_i weights[p, i] * g_i`` into the first gradient's buffers; ``weights`` is [P, n] float64.

    Blocks in ``mixed`` get instead what its function makes of them, chunk by chunk: [n, m] -> [m].
    """
    per_parameter = len(weights) != len(gradients[0].flat)
    first, *others = (gradient.blocks(per_parameter) for gradient in gradients)
    for row, (name, target) in zip(weights.tolist(), first.items(), strict=True):
        if mix := mixed.get(name):
            for parts in zip(target.split(CHUNK), *(other[name].split(CHUNK) for other in others), strict=True):
                parts[0].copy_(mix(torch.stack(parts)))
            continue
        target.mul_(row[0])
        for weight, other in zip(row[1:], others, strict=True):
            target.add_(other[name], alpha=weight)
