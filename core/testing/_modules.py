"""Asks pytest to rewrite the kits' assertions, so that failures show values. Must run before the kits are imported."""

from __future__ import annotations

import pytest

#: The modules with a kit, one for each kind.
MODULES = (
    *("datasets", "evaluators", "gradient_ops", "loops", "losses", "models"),
    *("optimizers", "samplers", "schedules", "teachers", "trackers"),
)

pytest.register_assert_rewrite(*(f"core.testing.{module}" for module in MODULES))
