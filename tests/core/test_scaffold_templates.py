"""The templates of ``components new`` as they lie there: each kind's tests are run on its components, before any name is replaced."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from core.contracts import KINDS
from core.scaffold import rendered
from core.scaffold.package import DOORS, TEMPLATES


def loaded(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


for kind in KINDS:
    for door in (None, *DOORS[kind]):
        folder = TEMPLATES / kind / (door or "")
        name = f"{kind}_{door}" if door else kind
        # each component under a name of its own, so that it can be pickled; its test asks for template_name
        sys.modules["template_name"] = loaded(f"template_{name}", folder / "component.py")
        globals()[f"Test_{name}"] = loaded(f"template_test_{name}", folder / "test.py").TestTemplateName
del sys.modules["template_name"]


def test_no_placeholder_is_left_in_what_is_written() -> None:
    for kind in KINDS:
        for door in (None, *DOORS[kind]):
            for path, text in rendered(kind, "my-own", door=door).items():
                assert "template" not in (path + text).lower(), (kind, door, path)


def test_the_doors_are_those_that_the_documentation_names() -> None:
    assert {kind: doors for kind, doors in DOORS.items() if doors} == {
        "teachers": ("captions",),
        "loops": ("own_weights", "segmenting"),
        "gradient_ops": ("combine",),
        "datasets": ("draw",),
    }


def test_a_name_that_holds_a_placeholder_is_kept() -> None:
    files = rendered("losses", "template_kind")
    assert "class TemplateKind:" in files["template_kind/__init__.py"]
    assert '"template_kind" = "template_kind:TemplateKind"' in files["pyproject.toml"]
