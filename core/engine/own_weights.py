"""Weights that components bring themselves, such as a contrastive head in a loop: found, named, moved to the device; or refused.

What is searched is what a component keeps: its attributes, what stands in their mappings and lists, and components it was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from core.contracts import UserError
from core.engine.parallel.gradients import Groups
from core.registry.attributes import attributes

Named = list[tuple[str, nn.Parameter]]
_DEEP = 8  # attributes of attributes; what lies deeper is no component's
_MANY = 1000  # a longer list or mapping is data
_CLOSED = (type, FunctionType, MethodType, ModuleType, torch.Tensor, torch.Generator, str, bytes)


def held(component: Any) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """The modules and single parameters that a component keeps, outermost and once each, named by the attributes that lead there."""
    yield from _held(component, "", _DEEP, set())


def _held(value: Any, name: str, deep: int, seen: set[int]) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    if id(value) in seen or deep == 0:
        return
    seen.add(id(value))
    inside: Mapping[Any, Any] = {}
    if isinstance(value, nn.Module):
        yield name, value
        seen |= {id(inner) for inner in (*value.modules(), *value.parameters())}
        # components that are no modules may lie in the attributes of one
        inside = {f"{at}.{key}" if at else key: item for at, module in value.named_modules() for key, item in vars(module).items()}
        inside = {key: item for key, item in inside.items() if not key.rpartition(".")[2].startswith("_")}
    elif isinstance(value, nn.Parameter):
        yield name, value
    elif isinstance(value, Mapping):
        inside = value if len(value) <= _MANY else {}
    elif isinstance(value, list | tuple | set | frozenset):
        inside = dict(enumerate(value)) if len(value) <= _MANY else {}
    elif not isinstance(value, _CLOSED):
        inside = attributes(value)
    for key, item in inside.items():
        yield from _held(item, f"{name}.{key}" if name else str(key), deep - 1, seen)


def own_weights(component: Any) -> Named:
    """The parameters of a component that ask for a gradient, by name. Raises ``UserError`` where one is not float32."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for name, one in held(component):
        inside = one.named_parameters(prefix=name) if isinstance(one, nn.Module) else [(name, one)]
        for full, parameter in inside:
            if parameter.requires_grad:
                found.setdefault(id(parameter), (full, parameter))
    if wrong := [f"{name} is {str(p.dtype).removeprefix('torch.')}" for name, p in found.values() if p.dtype != torch.float32]:
        raise UserError(f"weights that are trained must be float32, but {', '.join(wrong)}")
    return list(found.values())


def move_to(component: Any, device: str) -> None:
    """Moves what a component keeps to a device, in place: its modules with their buffers, and its parameters."""
    for _, one in held(component):
        if isinstance(one, nn.Module):
            one.to(device)
        else:
            one.data = one.data.to(device)


def refuse_untrained(component: Any, where: str, trained: Groups) -> None:
    """Raises ``UserError`` where a component keeps weights that ask for a gradient and are not among the trained ones."""
    known = {id(parameter) for members in trained.values() for _, parameter in members}
    if lost := [name for name, parameter in own_weights(component) if id(parameter) not in known]:
        named = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        raise UserError(
            f"{where}: its weights {named} ask for a gradient, but no loss reaches them: only a model's trainable() and loops, with their "
            "samplers and losses, are trained. Freeze them with requires_grad_(False), or move them into a loop"
        )
