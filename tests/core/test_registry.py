"""The registry against real installed metadata and against distributions made up on the path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core.registry import AmbiguousName, BrokenPlugin, ContractViolation, Registry, UnknownName

SNAPSHOT = Path(__file__).with_name("registered_names.txt")
SCHEDULE = """
class {name}:
    def __init__(self, *, order: list[str]) -> None:
        self.order = order

    def loops(self, update):
        return self.order
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with entry points, and its one module, on the path."""

    def make(distribution: str, entry_points: str, module: str = "", code: str = "") -> None:
        folder = tmp_path / distribution
        info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(entry_points)
        if module:
            (folder / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(str(folder))

    return make


def test_built_in_names_are_those_of_the_snapshot() -> None:
    names = sorted(f"{e.kind}/{e.name}" for e in Registry().list() if e.distribution == "dualloop")
    assert names == SNAPSHOT.read_text().split(), (
        "the registered names changed: reinstall with pip install -e . if pyproject.toml is newer, or update registered_names.txt"
    )


def test_listing_imports_no_plugin_and_no_torch() -> None:
    code = "import sys; from core.registry import Registry; assert Registry().list();"
    code += "print([m for m in sys.modules if m.startswith(('torch', 'plugins'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_get_imports_only_the_module_of_its_component(install) -> None:
    entries = "[dualloop.schedules]\nfake.one = fake_one:One\nfake.broken = fake_missing:Gone\n"
    install("fake-plugins", entries, "fake_one", SCHEDULE.format(name="One"))
    component = Registry().get("schedules", "fake.one")
    assert component.entry.distribution == "fake-plugins"
    assert component.entry.version == "1.2"
    assert component.create(order=["a"]).loops(0) == ["a"]
    assert [p.name for p in component.parameters] == ["order"]


def test_a_plugin_that_fails_to_import_tells_distribution_object_and_root_cause(install) -> None:
    install("fake-broken", "[dualloop.schedules]\nbroken = fake_broken:Thing\n", "fake_broken", "x = 1\nimport no_such_module_anywhere\n")
    with pytest.raises(BrokenPlugin) as caught:
        Registry().get("schedules", "broken")
    for part in ("fake-broken 1.2", "fake_broken:Thing", "No module named 'no_such_module_anywhere'", "fake_broken.py:2"):
        assert part in str(caught.value)


def test_the_root_cause_is_the_first_of_a_chain(install) -> None:
    code = "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError('outer') from error\n"
    install("fake-chain", "[dualloop.schedules]\nchain = fake_chain:Thing\n", "fake_chain", code)
    with pytest.raises(BrokenPlugin, match="ZeroDivisionError: division by zero"):
        Registry().get("schedules", "chain")


def test_a_missing_attribute_is_a_broken_plugin_not_an_unknown_name(install) -> None:
    install("fake-typo", "[dualloop.schedules]\ntypo = fake_typo:Theng\n", "fake_typo", SCHEDULE.format(name="Thing"))
    with pytest.raises(BrokenPlugin, match=r"its module has no 'Theng', did you mean 'Thing'\?"):
        Registry().get("schedules", "typo")


def test_one_name_of_two_distributions_is_an_error_only_when_used(install) -> None:
    install("fake-left", "[dualloop.schedules]\nclash = fake_left:Left\nleft = fake_left:Left\n", "fake_left", SCHEDULE.format(name="Left"))
    install("fake-right", "[dualloop.schedules]\nclash = fake_right:Right\n", "fake_right", SCHEDULE.format(name="Right"))
    registry = Registry()
    assert registry.get("schedules", "left").object.__name__ == "Left"
    with pytest.raises(AmbiguousName, match="write fake-left/clash or fake-right/clash"):
        registry.get("schedules", "clash")
    assert registry.get("schedules", "fake-right/clash").object.__name__ == "Right"
    assert registry.get("schedules", "fake_left/clash").object.__name__ == "Left"


def test_a_plugin_cannot_replace_a_built_in_name_silently(install) -> None:
    install("fake-thief", "[dualloop.gradient_ops]\nsum = fake_thief:Sum\n")
    with pytest.raises(AmbiguousName, match="dualloop/sum or fake-thief/sum"):
        Registry().get("gradient_ops", "sum")


def test_unknown_names_get_the_nearest_and_the_kind_they_belong_to() -> None:
    registry = Registry()
    with pytest.raises(UnknownName, match="did you mean 'st_gumbel_topk'"):
        registry.get("samplers", "st_gumbel_topl")
    with pytest.raises(UnknownName, match="'st_gumbel_topk' belongs to samplers"):
        registry.get("losses", "st_gumbel_topk")
    with pytest.raises(UnknownName, match=r"'loses' is no kind: did you mean 'losses'\?"):
        registry.get("loses", "bce_dice")


def test_a_name_declared_in_pyproject_but_not_installed_asks_for_installation(tmp_path, monkeypatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[project.entry-points."dualloop.losses"]\nfresh = "mine:Fresh"\n')
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    with pytest.raises(UnknownName, match=r"declared in pyproject.toml but not installed, run: pip install -e \. again"):
        Registry().get("losses", "fresh")


def test_a_class_without_the_methods_of_its_kind_violates_the_contract(install) -> None:
    install(
        "fake-poor",
        "[dualloop.samplers]\npoor = fake_poor:Poor\n[dualloop.schedules]\nvalue = fake_poor:VALUE\n",
        "fake_poor",
        "class Poor: ...\nVALUE = 3\n",
    )
    with pytest.raises(ContractViolation, match="is no Sampler: it lacks __call__"):
        Registry().get("samplers", "poor")
    with pytest.raises(ContractViolation, match="is of type int: a component is a class or a function"):
        Registry().get("schedules", "value")


def test_what_a_factory_gives_is_checked_when_it_is_built(tmp_path) -> None:
    (tmp_path / "factory.py").write_text("class Loss:\n    def __call__(self, *a): ...\ndef make() -> object:\n    return Loss()\n")
    component = Registry().get("losses", "./factory.py:make", relative_to=tmp_path)
    with pytest.raises(ContractViolation, match="which is no Loss: it lacks weight"):
        component.create()


def test_local_objects_by_file_and_by_module(tmp_path, monkeypatch) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my_op.py").write_text(SCHEDULE.format(name="MyOp") + f"    where = {folder!r}\n")
    registry = Registry()
    first = registry.get("schedules", "./my_op.py:MyOp", relative_to=tmp_path / "a")
    second = registry.get("schedules", "my_op.py:MyOp", relative_to=tmp_path / "b")
    assert (first.object.where, second.object.where) == ("a", "b")  # two files of one name do not meet
    assert first.file == tmp_path / "a" / "my_op.py"
    (tmp_path / "a" / "my_unique_module.py").write_text(SCHEDULE.format(name="MyOp"))
    monkeypatch.syspath_prepend(str(tmp_path / "a"))
    assert registry.get("schedules", "my_unique_module:MyOp").object.__name__ == "MyOp"
    with pytest.raises(UnknownName, match="there is no file"):
        registry.get("schedules", "./gone.py:MyOp", relative_to=tmp_path)
    with pytest.raises(BrokenPlugin, match="No module named 'gone_module'"):
        registry.get("schedules", "gone_module:MyOp")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("*, k", "parameter 'k' has no type"),
        ("**rest: int", r"takes \*\*rest"),
        ("*, use: str", "parameter 'use' has a name that recipes reserve"),
        ("*, k: Undefined", "type of parameter 'k' cannot be read"),
    ],
)
def test_signatures_that_no_recipe_can_describe(tmp_path, parameters: str, message: str) -> None:
    (tmp_path / "odd.py").write_text(f"from __future__ import annotations\ndef make({parameters}) -> Missing: ...\n")
    with pytest.raises(ContractViolation, match=message):
        _ = Registry().get("losses", "./odd.py:make", relative_to=tmp_path).parameters


def test_a_group_that_is_no_kind_is_told(install) -> None:
    install("fake-stray", "[dualloop.loss]\nlost = nowhere:Lost\n")
    assert Registry().strays() == ["fake-stray declares 'lost' in the group dualloop.loss, which is no kind"]
