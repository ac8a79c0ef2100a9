"""The contract kits of the published methods on the Gram matrix."""

from __future__ import annotations

from core.testing import GradientOpKit
from plugins.gradient_ops.aligned_mtl import AlignedMtl
from plugins.gradient_ops.cagrad import Cagrad
from plugins.gradient_ops.graddrop import GradDrop
from plugins.gradient_ops.gradvac import Gradvac
from plugins.gradient_ops.imtl_g import ImtlG
from plugins.gradient_ops.mgda import Mgda
from plugins.gradient_ops.nash_mtl import NashMtl
from plugins.gradient_ops.torchjd_weighting import TorchJd
from plugins.gradient_ops.uncertainty import Uncertainty


class TestAlignedMtl(GradientOpKit):
    symmetric, scope = True, "global"

    def make(self):
        return AlignedMtl()


class TestAlignedMtlByGroup(GradientOpKit):
    symmetric, scope = True, "group"

    def make(self):
        return AlignedMtl(scope="group")


class TestCagrad(GradientOpKit):
    symmetric, scope = True, "global"

    def make(self):
        return Cagrad(c=0.5)


class TestCagradByGroup(GradientOpKit):
    symmetric, scope = True, "group"

    def make(self):
        return Cagrad(scope="group")


class TestGradvac(GradientOpKit):
    scope = "global"

    def make(self):
        return Gradvac(decay=0.3)


class TestGradvacByGroup(GradientOpKit):
    scope = "group"

    def make(self):
        return Gradvac(decay=0.3, scope="group")


class TestImtlG(GradientOpKit):
    symmetric, scope = True, "global"

    def make(self):
        return ImtlG()


class TestMgda(GradientOpKit):
    conflict_free, symmetric, scope = True, True, "global"

    def make(self):
        return Mgda()


class TestMgdaByParameter(GradientOpKit):
    conflict_free, symmetric, scope = True, True, "group"  # the engine's blocks are then parameters

    def make(self):
        return Mgda(scope="parameter")


class TestNashMtl(GradientOpKit):
    conflict_free, symmetric, scope = True, True, "global"

    def make(self):
        return NashMtl()


class TestUncertainty(GradientOpKit):
    symmetric, scope = True, "global"

    def make(self):
        return Uncertainty(lr=0.1)


class TestUpgrad(GradientOpKit):
    symmetric, scope = True, "global"

    def make(self):
        return TorchJd(weighting="upgrad")


class TestTorchJdPcgrad(GradientOpKit):
    conflict_free, sum_without_conflict, scope = True, True, "group"

    def make(self):
        return TorchJd(weighting="pcgrad", scope="group")


class TestGradDrop(GradientOpKit):
    def make(self):
        return GradDrop()


class TestGradDropWithLeak(GradientOpKit):
    def make(self):
        return GradDrop(leak=0.3)
