from __future__ import annotations

import importlib

import pytest


def test_it_is_broken_as_it_should_be() -> None:
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        importlib.import_module("broken_turns")
