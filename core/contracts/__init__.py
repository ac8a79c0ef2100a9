"""The only interface for plugins: the data that travels between the parts, and one small protocol for each kind of component.

The core engine knows components only through these types; a plugin needs to import nothing else of the toolkit.
Importing this package does not import torch: the tensor types are for readers and type checkers.

``errors``: what a component raises on purpose. ``travel``: samples, batches, losses, the Gram matrix. ``results``: what evaluators and
trackers take and return. ``model``: the model's contract in its parts. ``kinds``: those of all other kinds. ``optional``: what a component
may offer beyond its contract.

Shape letters: B regions in a micro-batch, N pictures in it, T caption tokens, A answer tokens, D hidden size,
V vocabulary, gh gw a picture's grid of image tokens (16 x 16 for tiles of 448 pixels), h w the low-resolution mask
(a quarter of the SAM2 picture's side: 256 for 1024), n loops in an update, P parameter groups, k of top-k.
"""

from __future__ import annotations

from core.contracts.errors import BadSample, UserError
from core.contracts.kinds import (
    KINDS,
    Batches,
    Dataset,
    Evaluator,
    GradientOp,
    Loop,
    Loss,
    MaskLoss,
    OptimizerFactory,
    Sampler,
    Schedule,
    Teacher,
    TokenLoss,
    Tracker,
)
from core.contracts.model import Describing, Model, Noise, Precision, Preparation, Publishing, Segmenting, Writing
from core.contracts.optional import (
    BEFORE_BUILDING,
    OPTIONAL,
    ExportsAdapters,
    ExportsTrainingFile,
    GroupsByPicture,
    InBackground,
    KeepsRunningGradient,
    KnowsBaseValues,
    KnowsCocoPictures,
    NeedsSomething,
    PerParameter,
    ReadsFiles,
    ReportsChanges,
    ReportsStatistics,
    ShowsPanels,
    ShowsPictures,
    Stateful,
    TellsFacts,
    VerifiesExport,
    WholeMetrics,
    offers,
)
from core.contracts.results import Evaluation, Item, Picture, RunInfo
from core.contracts.travel import (
    Gram,
    LossTerm,
    LossTerms,
    Prediction,
    Region,
    RegionBatch,
    Segmentation,
    Tokens,
    Wording,
)

__all__ = [
    "BEFORE_BUILDING",
    "KINDS",
    "OPTIONAL",
    "BadSample",
    "Batches",
    "Dataset",
    "Describing",
    "Evaluation",
    "Evaluator",
    "ExportsAdapters",
    "ExportsTrainingFile",
    "GradientOp",
    "Gram",
    "GroupsByPicture",
    "InBackground",
    "Item",
    "KeepsRunningGradient",
    "KnowsBaseValues",
    "KnowsCocoPictures",
    "Loop",
    "Loss",
    "LossTerm",
    "LossTerms",
    "MaskLoss",
    "Model",
    "NeedsSomething",
    "Noise",
    "OptimizerFactory",
    "PerParameter",
    "Picture",
    "Precision",
    "Prediction",
    "Preparation",
    "Publishing",
    "ReadsFiles",
    "Region",
    "RegionBatch",
    "ReportsChanges",
    "ReportsStatistics",
    "RunInfo",
    "Sampler",
    "Schedule",
    "Segmentation",
    "Segmenting",
    "ShowsPanels",
    "ShowsPictures",
    "Stateful",
    "Teacher",
    "TellsFacts",
    "TokenLoss",
    "Tokens",
    "Tracker",
    "UserError",
    "VerifiesExport",
    "WholeMetrics",
    "Wording",
    "Writing",
    "offers",
]
