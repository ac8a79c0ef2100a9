"""Whether a loss of each task reaches a trained weight. Tasks that come later than the first update are tried before it.

Otherwise a run of several stages would train for hours and then end: ``train.model`` lacks what a late loop needs. One forward of the
task's own first micro-batch tells it exactly.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from core.contracts import LossTerms, UserError
from core.engine.drawing import Drawing, Request
from core.engine.feed import Supply
from core.engine.moving import move
from core.engine.noise import RunNoise, derived_seed
from core.engine.own_weights import held
from core.engine.plan import Slot
from core.engine.teaching import teacher_preparation
from core.engine.undisturbed import undisturbed

if TYPE_CHECKING:
    from core.engine.update import Trainer

UPDATES = 100_000  # that are looked through for a loop
BATCHES = 1_000  # of a loop that are looked through for a rare task of it


UNREACHED = "no loss of it reaches a trained weight; train a group that it uses (model.train), or take the task out of the recipe"


def reaches(terms: LossTerms) -> bool:
    """Whether a backward pass would get anywhere; ``terms`` were made with gradients on."""
    return any(term.total.requires_grad for term in terms.terms.values())


def require_reach(trainer: Trainer, start: int, updates: int) -> list[str]:
    """Tries each task that takes part in updates ``start`` (from 0) to ``updates``, but not in the first of them.

    Returns which it looked for, as ``LOOP/TASK``, on all ranks alike; one that cannot be copied is told on stderr instead of tried.
    Nothing is trained and no generator moves: what follows is bit for bit as without it, but for what a teacher may count. Raises
    ``UserError`` for a task that reaches nothing trained.
    """
    late = list(_late(trainer, start, updates))
    for update, loop, task, slots in late:
        supply = trainer.loops[loop].feed.supply
        mine, micro = slots[trainer.strategy.rank :: trainer.strategy.world], supply.micro
        parts = ([slot for slot in mine[at : at + micro] if _task(supply, slot, loop) == task] for at in range(0, len(mine), micro))
        if part := next(filter(None, parts), None):  # of its first micro-batch on this rank
            _try(trainer, loop, task, update, Request(loop, tuple(part)))
    if late:
        move(trainer.moving, start)
        trainer.strategy.exchange.gather(None)  # with fsdp2, a rank that has no sample of a task helps the others until here
    return [f"{loop}/{task}" for _, loop, task, _ in late]


def _task(supply: Supply, slot: Slot, loop: str) -> str:
    return supply.plans[loop].sources[slot.source].task


def _late(trainer: Trainer, start: int, updates: int) -> Iterator[tuple[int, str, str, list[Slot]]]:
    """(update, loop, task, the update's slots of the loop on all ranks), where a task comes first; not those of update ``start``."""
    waiting = {name: set(loop.tasks) for name, loop in trainer.loops.items()}
    looked = dict.fromkeys(waiting, 0)
    for update in range(start, min(updates, start + UPDATES)):
        for loop in trainer.schedule.loops(update):
            if not waiting[loop] or looked[loop] >= BATCHES:
                continue
            looked[loop] += 1
            supply = trainer.loops[loop].feed.supply
            slots = supply.plans[loop].slots(update)
            there = {_task(supply, slot, loop) for slot in slots} & waiting[loop]
            waiting[loop] -= there
            if update > start:
                yield from ((update, loop, task, slots) for task in sorted(there))
        if not any(waiting[loop] and looked[loop] < BATCHES for loop in waiting):
            return


def _try(trainer: Trainer, loop: str, task: str, update: int, request: Request) -> None:
    """A task that cannot be copied is told and left. Raises ``UserError`` for one that reaches nothing trained."""
    model, plans = trainer.model, trainer.loops[loop].feed.supply.plans
    move(trainer.moving, update)
    original = trainer.loops[loop].tasks[task]
    weights = (one.parameters() if isinstance(one, torch.nn.Module) else [one] for _, one in held(original))
    try:  # what it keeps of one call to the next stays as it was; weights are shared, a network of its own may be large
        component = copy.deepcopy(original, {id(weight): weight for several in weights for weight in several})
    except Exception as error:  # what a third party keeps may be such that it cannot be copied: told, and its first update will tell
        why = f"it cannot be copied ({type(error).__name__}: {error})"
        print(f"note: {loop}/{task} is not tried before its first update, {update + 1}: {why}", file=sys.stderr)
        return
    micro = Drawing(plans, model.preparation, teacher_preparation(trainer.teacher, model))(request)
    if isinstance(micro, UserError):
        raise micro
    [(_, batch)] = micro.parts
    with undisturbed(), _buffers_kept(model):
        torch.manual_seed(derived_seed(trainer.seed, update, loop, trainer.strategy.rank, 0))
        with model.computing(True, trainer.precision):
            terms = component(model, trainer.teacher, batch.to(trainer.device), RunNoise(trainer.seed, update))
    if not reaches(terms):
        raise UserError(f"{loop}/{task}: {UNREACHED}")


@contextmanager
def _buffers_kept(model: Any) -> Iterator[None]:
    """What a forward changes in training mode, such as running means, is afterwards as it was."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()] if isinstance(model, torch.nn.Module) else []
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
