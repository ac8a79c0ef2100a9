"""Optional protocols: declared, listed, and a misspelt one is a fault."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from core import contracts
from core.contracts import KINDS, OPTIONAL, GroupsByPicture, PerParameter, ReadsFiles, ShowsPictures, Stateful, TellsFacts, offers
from core.registry import Registry
from core.registry.explain import explain, find
from core.registry.offers import built_class, faults, offers_of
from core.testing import GradientOpKit

ROOT = Path(__file__).parents[2]


class Op:
    def weights(self, gram): ...


class HalfStateful(Op):
    def state_dict(self): ...


class Misspelt(Op):
    def load_statedict(self, state): ...


class Wrong(Op):
    def state_dict(self, everything): ...

    def load_state_dict(self, state): ...


class Flat(Op):
    state_dict = 3

    def load_state_dict(self, state): ...


class Sound(Op):
    per_parameter = True

    def state_dict(self): ...

    def load_state_dict(self, state): ...

    def solve(self): ...


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (HalfStateful, "has state_dict without load_state_dict: Stateful needs both"),
        (Misspelt, "has 'load_statedict', which nothing calls: did you mean 'load_state_dict'?"),
        (Wrong, "cannot be called as state_dict(self)".replace("self", "")),
        (Flat, "state_dict is no method"),
    ],
)
def test_what_is_nearly_an_offer_is_a_fault(cls, words: str) -> None:
    assert any(words in fault for fault in faults(cls, "gradient_ops")), list(faults(cls, "gradient_ops"))
    assert list(faults(cls(), "gradient_ops")) == list(faults(cls, "gradient_ops"))


def test_sound_offers_have_no_fault() -> None:
    assert list(faults(Sound, "gradient_ops")) == []
    assert isinstance(Sound(), Stateful)
    assert offers_of(Sound, "gradient_ops")[Stateful] is True
    assert offers_of(Op, "gradient_ops")[Stateful] is False


class Late(Op):
    def __init__(self, loop: str = "loop1") -> None:
        self.per_parameter = True


class LateMisspelt(Op):
    def __init__(self, loop: str = "loop1") -> None:
        self.per_paramater = True


def test_what_a_constructor_assigns_is_known_once_it_is_built() -> None:
    assert offers_of(Late, "gradient_ops")[PerParameter] is None
    assert offers_of(Op, "gradient_ops")[PerParameter] is False
    assert "may offer, known once it is built\n    running" in explain(find(Registry(), "every_n"))
    assert "may offer" not in explain(find(Registry(), "alternate"))
    assert ["did you mean 'per_parameter'" in fault for fault in faults(LateMisspelt(), "gradient_ops")] == [True]
    assert list(faults(Late(), "gradient_ops")) == []


def test_a_function_offers_before_it_has_built_anything() -> None:
    @offers(facts=lambda **given: {})
    def load() -> Sound: ...

    assert isinstance(load, TellsFacts)
    assert not isinstance(load, ReadsFiles)
    assert list(faults(load, "models")) == []


def test_no_built_in_component_has_a_faulty_offer() -> None:
    registry = Registry()
    for entry in registry.list():
        if entry.distribution == "dualloop":
            component = registry.get(entry.kind, f"dualloop/{entry.name}").object
            for holder in {component, built_class(component)} - {None}:
                assert list(faults(holder, entry.kind)) == [], entry


def test_the_kits_check_offers() -> None:
    class Kit(GradientOpKit):
        def make(self):
            return Misspelt()

    with pytest.raises(AssertionError, match="did you mean 'load_state_dict'"):
        Kit().test_offers_are_declared_whole()


@pytest.mark.parametrize(
    ("name", "offered", "lines"),
    [("coco_regions", GroupsByPicture, "images (GroupsByPicture)"), ("evaluators/refcoco", ShowsPictures, "picture (ShowsPictures)")],
)
def test_explain_lists_offers(name: str, offered: type, lines: str) -> None:
    text = explain(find(Registry(), name))
    assert lines in text.split("  offers\n")[1].split("  offers not")[0]


def test_every_optional_protocol_belongs_to_a_kind_and_is_at_the_door() -> None:
    assert set(OPTIONAL) <= set(KINDS)
    for kind, protocols in OPTIONAL.items():
        for protocol in protocols:
            assert getattr(contracts, protocol.__name__) is protocol, kind
    names = {name for name, value in vars(contracts).items() if inspect.isclass(value)}
    assert names <= set(contracts.__all__)


def test_core_names_no_plugin_and_asks_no_component_for_a_name() -> None:
    """No import of ``plugins`` in core, no name of a built-in model in it, and no ``hasattr`` where a protocol would do."""
    models = {entry.name for entry in Registry().list("models")}
    asking = []
    for file in (ROOT / "core").rglob("*.py"):
        if "templates" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert not any(module.split(".")[0] == "plugins" for module in modules), file
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in models, f"{file}:{node.lineno} names the model {node.value!r}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
                asking.append(f"{file.relative_to(ROOT)}:{ast.unparse(node)}")
    # a module, an operating system: no components
    allowed = ("hasattr(found, part)", "hasattr(os,")
    assert [one for one in asking if not any(each in one for each in allowed)] == []
