"""Contract kits: one class of checks for each kind of component, for its author to subclass in a pytest file.

    from core.testing import GradientOpKit

    class TestMyOp(GradientOpKit):
        def make(self):
            return MyOp(anchor="loop1")

A kit checks what its contract in ``core.contracts`` promises, and what the component declares in the class
attributes that the kit documents. Kits know contracts only. They need pytest, torch and numpy.
"""

from __future__ import annotations

from core.testing._modules import MODULES
from core.testing.datasets import DatasetKit
from core.testing.evaluators import EvaluatorKit
from core.testing.gradient_ops import GradientOpKit
from core.testing.loops import LoopKit
from core.testing.losses import MaskLossKit, TokenLossKit
from core.testing.models import ModelKit
from core.testing.optimizers import OptimizerKit
from core.testing.samplers import SamplerKit
from core.testing.schedules import ScheduleKit
from core.testing.teachers import TeacherKit
from core.testing.tiny_model import KitNoise, TinyModel
from core.testing.trackers import TrackerKit

__all__ = [
    "MODULES",
    "DatasetKit",
    "EvaluatorKit",
    "GradientOpKit",
    "KitNoise",
    "LoopKit",
    "MaskLossKit",
    "ModelKit",
    "OptimizerKit",
    "SamplerKit",
    "ScheduleKit",
    "TeacherKit",
    "TinyModel",
    "TokenLossKit",
    "TrackerKit",
]
