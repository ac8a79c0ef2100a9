"""What the fork server of ``tests.engine.children`` imports and computes once for all its children."""

from __future__ import annotations

import peft  # noqa: F401
import pytest  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import core.commands.run
import core.engine.runner  # noqa: F401
import plugins.evaluators.refcoco
import plugins.models.sa2va.published.load  # noqa: F401

get_checkpoint_conversion_mapping("")  # a thousand patterns, which peft asks for with every adapter
