"""DeepSpeed ZeRO stage 1 or 2: the optimizer's state of the trained parameters is divided over the ranks.

Gradients are reduced and combined as always; DeepSpeed gets the finished gradient, so that its precision sections, its clipping
and its own reduction order play no part. Both loops' backward passes run inside ``coalesce_grad_reduction``, which keeps its
hooks from reducing them one by one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from core.contracts import UserError
from core.engine.launch import device_of
from core.engine.parallel.arena import Arena
from core.engine.parallel.exchange import Exchange
from core.engine.parallel.gradients import Groups
from core.engine.parallel.step import State, Step, TorchStep
from core.engine.parallel.strategy import Strategy

MOMENTS = ("exp_avg", "exp_avg_sq")
TOLERANCE = 1e-6  # of the self-test's parameters, which are of size 1


class ZeroStep:
    """Needs Adam or AdamW of torch: their moments are what a checkpoint holds, in the same format as without DeepSpeed."""

    def __init__(self, groups: Groups, optimizer: torch.optim.Optimizer, stage: int) -> None:
        if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
            raise UserError(f"launch.strategy=deepspeed needs Adam or AdamW, not {type(optimizer).__name__}; launch.strategy=ddp takes any")
        self.optimizer = optimizer
        self.parameters = [parameter for members in groups.values() for _, parameter in members]
        numel, device = sum(parameter.numel() for parameter in self.parameters), self.parameters[0].device.type
        os.environ.setdefault("DS_ACCELERATOR", device)
        os.environ.setdefault("LOCAL_RANK", "0")  # deepspeed insists on it; a launcher has set it where there are several
        import deepspeed  # after DS_ACCELERATOR
        import deepspeed.ops
        import deepspeed.utils

        self.tools = deepspeed.utils
        if device == "cpu":  # else a C++ extension is compiled, behind a lock that a killed run leaves; gloo does without
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        bucket = numel + numel % 2  # even, as it must be; the defaults would allocate 2 GB each
        self.engine, *_ = deepspeed.initialize(
            model=nn.ParameterList(self.parameters),
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "steps_per_print": 10**9,
                "gradient_clipping": 0.0,  # done before; the default would clip to 1
                "zero_optimization": {"stage": stage, "overlap_comm": False, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket},
            },
        )
        self._window = ExitStack()  # open from the first backward of an update until its step
        self._open = False

    def begin(self) -> None:
        if not self._open:
            self._window.enter_context(self.engine.coalesce_grad_reduction())
            self._open = True

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self) -> None:
        # the flat partitions know no missing gradient: a parameter that no loss reached would decay (its moments still do)
        untouched = [(parameter, parameter.clone()) for parameter in self.parameters if parameter.grad is None]
        self._close()
        self.engine.step()
        for parameter, value in untouched:
            self.tools.safe_set_full_fp32_param(parameter, value)
            parameter.copy_(value)

    def end(self) -> None:
        self.engine.zero_grad()
        self._close()
        self.optimizer.zero_grad(set_to_none=True)

    def _close(self) -> None:
        """Divides what is in ``.grad`` over the ranks: a mean of equal copies, or nothing."""
        self._window.close()
        self._open = False

    def gathered_state(self) -> State:
        """Moments gathered from all ranks, one parameter at a time, on the CPU."""
        state: State = {}
        for parameter, step in zip(self.parameters, self._steps(), strict=False):
            moments = {name: self.tools.safe_get_full_optimizer_state(parameter, name).cpu() for name in MOMENTS}
            state[parameter] = {"step": step.clone(), **moments}
        return state

    @torch.no_grad()
    def take_state(self, state: State) -> None:
        zero = self.engine.optimizer
        zero.refresh_fp32_params()
        for group, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
            steps = [float(state[p]["step"]) for p in group if state.get(p)]
            moments = {name: torch.zeros_like(flat) for name in MOMENTS}
            zero.optimizer.state[flat] = {"step": torch.tensor(max(steps, default=0.0)), **moments}
        self._link()
        for parameter in self.parameters:
            for name in MOMENTS:
                if (value := state.get(parameter, {}).get(name)) is not None:
                    self.tools.safe_set_full_optimizer_state(parameter, value, name)

    def _link(self) -> None:
        """Lets parameters find their moments. DeepSpeed does it after the first group's first step, when the others have none."""
        zero = self.engine.optimizer
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()

    def _steps(self) -> list[Tensor]:
        """Of each parameter, how many steps its group has made; nothing before the first."""
        zero = self.engine.optimizer
        if not zero.optimizer.state:
            return []
        self._link()
        partitions = zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True)
        made = {parameter: zero.optimizer.state[flat]["step"] for group, flat in partitions for parameter in group}
        return [made[parameter] for parameter in self.parameters]


def self_test(exchange: Exchange, stage: int, device: str) -> None:
    """Raises ``UserError`` unless two ZeRO updates of a toy are the plain ones; all ranks call it.

    Some DeepSpeed versions reduce wrongly, without an error, if a module is used more than once in a step.
    """
    ends = []
    for zero in (False, True):
        weight, bias, unused = (nn.Parameter(torch.linspace(-1, 1, n, device=device)) for n in (7, 3, 2))
        groups = {"first": [("weight", weight)], "second": [("bias", bias), ("unused", unused)]}
        # a large eps and clip norm: otherwise Adam and clipping would hide a wrong scale
        optimizer = torch.optim.AdamW([{"params": [p for _, p in members]} for members in groups.values()], lr=0.1, eps=1.0)
        step: Step = ZeroStep(groups, optimizer, stage) if zero else TorchStep(optimizer)
        strategy = Strategy(groups, exchange, Arena(groups, exchange, 2), step, 1e3)
        for update in (1, 2):
            gradients = []
            for loop in (1, 2):
                with strategy.gradient() as gradient:
                    for micro in (1, 2):
                        x = (weight * (exchange.rank + micro)).sin() * loop  # [7]
                        strategy.backward((x.sum() * bias.square().mean() + (weight * update).cos().sum()) / exchange.world)
                gradients.append(gradient)
            strategy.reduce(gradients)
            strategy.step(gradients, torch.tensor([[1.0, 0.5], [0.7, -0.2]], dtype=torch.float64))
        ends.append(torch.cat([parameter.detach() for parameter in (weight, bias, unused)]))
    off = float((ends[0] - ends[1]).abs().max())
    if not off <= TOLERANCE:  # NaN too
        import deepspeed

        raise UserError(
            f"deepspeed {deepspeed.__version__} with launch.zero_stage={stage} makes other updates of a toy model than plain training "
            f"(by {off:.1e}); use launch.strategy=ddp, or another version of deepspeed"
        )


def zero_step(groups: Groups, optimizer: torch.optim.Optimizer, exchange: Exchange, launch: Mapping[str, Any]) -> ZeroStep:
    """The step of ``launch.strategy=deepspeed``, once a toy has shown that this version of DeepSpeed steps rightly."""
    self_test(exchange, launch["zero_stage"], device_of(launch))
    return ZeroStep(groups, optimizer, launch["zero_stage"])
