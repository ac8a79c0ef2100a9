"""Commands that only look at recipes and signatures load none of the libraries that the run itself needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.registry import Registry

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
HEAVY = {"torch", "transformers", "deepspeed", "peft", "accelerate", "wandb", "tensorboard", "scipy", "plotly", "torchjd"}
COMPONENTS = [f"{entry.kind}/{entry.name}" for entry in Registry().list()]
#: The model's own modules; the other components are counted without them.
MODELS = [name for name in COMPONENTS if name.startswith("models/")]


def loaded(code: str) -> set[str]:
    """The heavy libraries that a fresh process has loaded after the code."""
    told = f"{code}\nimport sys\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    return HEAVY & set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_check_of_a_shipped_recipe_loads_nothing_heavy(recipe: str) -> None:
    assert loaded(f"from core.run import main\nassert main([{recipe!r}, '--check', '--elsewhere']) == 0") == set()


def test_the_signatures_of_all_components_but_models_load_nothing_heavy() -> None:
    others = [name for name in COMPONENTS if name not in MODELS]
    assert len(others) > 40
    code = "from core.registry import Registry\nfrom core.registry.explain import explain, find\nregistry = Registry()\n"
    assert loaded(code + f"for name in {others!r}:\n    explain(find(registry, name))") == set()


@pytest.mark.parametrize("name", MODELS)
def test_explaining_a_model_loads_nothing_heavy(name: str) -> None:
    assert loaded(f"from core.components import main\nassert main(['explain', {name!r}]) == 0") == set()


def test_the_doctor_loads_nothing_heavy() -> None:
    assert loaded("from core.components import main\nmain(['doctor'])") == set()
