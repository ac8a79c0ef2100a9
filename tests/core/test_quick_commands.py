"""Commands that only look at recipes and signatures load none of the libraries that the run itself needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from core.registry import Registry

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
HEAVY = {"torch", "transformers", "deepspeed", "peft", "accelerate", "wandb", "tensorboard", "scipy", "plotly", "torchjd"}
COMPONENTS = [f"{entry.kind}/{entry.name}" for entry in Registry().list()]
#: The model's own modules; the other components are counted without them.
MODELS = [name for name in COMPONENTS if name.startswith("models/")]


def loaded_after(imports: str, code: str, names: Sequence[str]) -> dict[str, str]:
    """For each name, the heavy libraries that a fresh process has loaded once it has carried ``code`` out with ``name``.

    One process for all names in turn: what the first has loaded is still there after the last, so that nothing can hide.
    """
    told = f"import sys\n{imports}\nfor name in {list(names)!r}:\n    {code}\n    print('LOADED', name, *({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("LOADED ")]
    return {name: " ".join(sorted(heavy)) for _, name, *heavy in lines}


def test_the_checks_of_all_shipped_recipes_load_nothing_heavy() -> None:
    assert loaded_after("from core.run import main", "assert main([name, '--check', '--elsewhere']) == 0", RECIPES) == dict.fromkeys(
        RECIPES, ""
    )


def test_the_signatures_of_all_components_but_models_load_nothing_heavy() -> None:
    others = [name for name in COMPONENTS if name not in MODELS]
    assert len(others) > 40
    imports = "from core.registry import Registry\nfrom core.registry.explain import explain, find\nregistry = Registry()"
    assert loaded_after(imports, "explain(find(registry, name))", others) == dict.fromkeys(others, "")


def test_explaining_a_model_and_the_doctor_load_nothing_heavy() -> None:
    """The doctor comes last: it loads all components."""
    code = "assert main(['explain', name] if '/' in name else [name]) == 0 or name == 'doctor'"
    assert loaded_after("from core.components import main", code, [*MODELS, "doctor"]) == dict.fromkeys([*MODELS, "doctor"], "")
