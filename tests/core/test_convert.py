"""``core.convert`` on a real run of the small model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.checkpoints.trained_weights import VARIANTS, open_run
from core.commands import convert
from core.engine import runner
from core.recipe import Recipe
from core.registry import Registry
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.weights import native_tensors, published_tensor


@pytest.fixture(scope="module")
def run(tiny_in: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests, which only read it."""
    recipe = tiny_in(tmp_path_factory.mktemp("convert"), "optimizer.lr=0.01", "train.updates=2")
    assert runner.run(recipe, Registry(), quiet=True) == 0
    return next(Path(recipe.values["output"]).iterdir())


def test_variants_change_their_groups_only_and_verify(
    run: Path, tmp_path: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_file(small_checkpoint / "model.safetensors")
    for number, variant in enumerate(VARIANTS):
        out = tmp_path / f"out{number}"
        source = run / "checkpoints" / "update-000002" if number else run
        assert convert.main([str(source), str(out), "--groups", variant, "--verify", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        changed = {row["group"] for row in report["changes"] if row["changed"]}
        assert changed == set(VARIANTS[variant])
        assert report["verify"]["mask_pixels"] == 0
        assert report["verify"]["logits"] < 1e-5
        stored = load_file(out / "model.safetensors")
        assert stored.keys() == base.keys()
        for key in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
            assert torch.equal(stored[key], base[key])


def without_adapters(network: Network) -> Callable[[str, Tensor], Tensor]:
    """An export that forgets to merge."""
    tensors, layout = native_tensors(network), network.config.layout
    return lambda key, stored: published_tensor(layout, key, tensors.__getitem__).detach().to(stored.dtype)


def test_verification_notices_a_wrong_export(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plugins.models.sa2va.published import export as module

    monkeypatch.setattr(module, "merged_reader", without_adapters)
    assert convert.main([str(run), str(tmp_path / "out"), "--verify"]) == 1


def test_adapters_alone_load_in_peft(run: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    assert convert.main([str(run), str(tmp_path / "adapter"), "--adapter"]) == 0
    live = open_run(run, Registry()).model.eval()
    plain = Registry().get("models", "sa2va").create(checkpoint=live.base).eval()
    adapted = PeftModel.from_pretrained(plain.network.llm, tmp_path / "adapter")
    embeds = torch.randn(1, 5, live.embedding().shape[1])
    with torch.no_grad():
        theirs = adapted(inputs_embeds=embeds).logits
        assert torch.allclose(theirs, live.network.llm(inputs_embeds=embeds).logits, atol=1e-5)
    assert not torch.equal(theirs, torch.zeros_like(theirs))


def published(folder: Path) -> dict[str, bytes]:
    return {key: tensor.numpy().tobytes() for key, tensor in load_file(folder / "model.safetensors").items()}


def test_a_training_file_leads_back_to_the_same_folder(run: Path, tmp_path: Path, small_checkpoint: Path) -> None:
    """run -> .pth -> published folder = run -> published folder; and the file can be trained on."""
    assert convert.main([str(run), str(tmp_path / "out")]) == 0
    assert convert.main([str(run), str(tmp_path / "run.pth")]) == 0
    assert convert.main([str(tmp_path / "run.pth"), str(tmp_path / "back"), "--base", str(small_checkpoint), "--verify"]) == 0
    assert published(tmp_path / "back") == published(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"of the run `{run.name}`, update 2" in card
    assert f"base_model: {json.dumps(small_checkpoint.name)}" in card
    assert "model.safetensors: sha256" in card
    assert str(tmp_path) not in card
    assert f"- {small_checkpoint.name}: sha256" in (tmp_path / "back" / "README.md").read_text()
    state = torch.load(tmp_path / "run.pth", weights_only=True)["state_dict"]
    prefixes = ("mllm.model.mlp1.", "mllm.model.language_model.base_model.model.model.layers.", "text_hidden_fcs.", "grounding_encoder.")
    assert {prefix for prefix in prefixes for key in state if key.startswith(prefix)} == set(prefixes)
    assert all(key.startswith(prefixes) for key in state)
    again = Registry().get("models", "sa2va.legacy").create(file=tmp_path / "run.pth", checkpoint=small_checkpoint)
    live = open_run(run, Registry()).model
    for group, members in live.trainable().items():
        for (name, one), (_, other) in zip(members, again.trainable()[group], strict=True):
            assert torch.equal(one, other), name


def test_adapters_lead_back_to_a_folder_and_a_run(run: Path, tmp_path: Path, small_checkpoint: Path, tiny: Callable[..., Recipe]) -> None:
    """Those that PEFT itself writes, too."""
    assert convert.main([str(run), str(tmp_path / "lora"), "--groups", "lora"]) == 0
    assert convert.main([str(run), str(tmp_path / "adapter"), "--adapter"]) == 0
    assert convert.main([str(tmp_path / "adapter"), str(tmp_path / "back"), "--base", str(small_checkpoint), "--verify"]) == 0
    assert published(tmp_path / "back") == published(tmp_path / "lora")
    from peft import PeftModel

    plain = Registry().get("models", "sa2va").create(checkpoint=small_checkpoint)
    PeftModel.from_pretrained(plain.network.llm, tmp_path / "adapter").save_pretrained(tmp_path / "peft")
    assert convert.main([str(tmp_path / "peft"), str(tmp_path / "peft-back"), "--base", str(small_checkpoint)]) == 0
    assert published(tmp_path / "peft-back") == published(tmp_path / "lora")
    model = f"{{use: sa2va.legacy, file: {tmp_path / 'adapter'}, checkpoint: {small_checkpoint}}}"
    recipe = tiny("model=null", f"model={model}", "optimizer.lr=1.0e-9", "train.updates=1", f"output={tmp_path / 'second'}")
    assert runner.run(recipe, Registry(), quiet=True) == 0
    second = open_run(next((tmp_path / "second").iterdir()), Registry())
    first = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert second.model.adapters.lora_alpha == 8
    for key, tensor in second.values.items():
        if key.startswith("lora/"):
            name = "base_model.model." + key.removeprefix("lora/llm.").replace(".default", "")
            assert torch.allclose(tensor, first[name], atol=1e-6), key


@pytest.mark.parametrize(
    ("dtype", "loaded", "precision"),
    [("bfloat16", "bfloat16", "bf16"), ("float16", "float32", "fp32"), ("float32", "bfloat16", "bf16")],
)
def test_a_base_keeps_its_type_and_verifies(
    dtype: str,
    loaded: str,
    precision: str,
    tiny: Callable[..., Recipe],
    small_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, kind = Path(shutil.copytree(small_checkpoint, tmp_path / "base")), getattr(torch, dtype)
    save_file({key: tensor.to(kind) for key, tensor in load_file(base / "model.safetensors").items()}, base / "model.safetensors")
    # small steps: an export without its adapters would be near, too, and must be told apart all the same
    settings = [
        f"model.checkpoint={base}",
        f"model.dtype={loaded}",
        "optimizer.lr=0.0005",
        "train.updates=2",
        f"train.precision={precision}",
    ]
    recipe = tiny(*settings)
    assert runner.run(recipe, Registry(), quiet=True) == 0
    run = next(Path(recipe.values["output"]).iterdir())
    assert convert.main([str(run), str(tmp_path / "out"), "--verify"]) == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {kind}
    from plugins.models.sa2va.published import export as module

    monkeypatch.setattr(module, "merged_reader", without_adapters)
    assert convert.main([str(run), str(tmp_path / "wrong"), "--verify"]) == 1


def test_large_exports_are_written_in_shards(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plugins.models.sa2va.published import writing as module
    from plugins.models.sa2va.published.folder import stored_tensors

    assert convert.main([str(run), str(tmp_path / "one")]) == 0
    monkeypatch.setattr(module, "FILE_BYTES", 200_000)
    assert convert.main([str(run), str(tmp_path / "many"), "--verify"]) == 0
    files = sorted(file.name for file in (tmp_path / "many").glob("*.safetensors"))
    assert {file.stat().st_mode for file in (tmp_path / "many").iterdir()} == {(run / "recipe.yaml").stat().st_mode}
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == load_file(tmp_path / "one" / "model.safetensors").keys()
    assert dict(stored_tensors(tmp_path / "many")).keys() == index["weight_map"].keys()


def test_the_table_says_what_changed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = open_run(run, Registry()).model
    code = Path(live.base) / "modeling_note.py"
    code.write_text("# remote code\n")
    try:
        assert convert.main([str(run), str(tmp_path / "out"), "--groups", "projector"]) == 0
    finally:
        code.unlink()
    table = capsys.readouterr().out
    assert "|new - base| / |base|" in table
    rows = {line.split()[0]: line.split() for line in table.splitlines() if line and line.split()[0] in VARIANTS["full"]}
    assert rows["projector"][2] == "6"
    assert float(rows["projector"][-1]) > 0
    assert rows["lora"][2] == "0"
    assert (tmp_path / "out" / "modeling_note.py").read_text() == "# remote code\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "{run}"], "already exists"),
        (["{tmp}/nowhere", "{tmp}/out"], "not found"),
        (["{tmp}", "{tmp}/out"], "holds no checkpoint"),
        (["{run}", "{tmp}/out", "--groups", "lora+vision"], "vision was not trained here"),
        (["{run}/recipe.json", "{tmp}/out"], "--base"),
        (["{run}/recipe.json", "{tmp}/out", "--base", "{base}"], "recipe.json"),
        (["{run}", "{run}/recipe.json/out"], "recipe.json/out: cannot be written"),
        (["{run}", "{run}/recipe.json/out", "--adapter"], "recipe.json/out: cannot be written"),
        (["{run}", "{run}/recipe.json/out.pth"], "recipe.json/out.pth: cannot be written"),
        (["{run}", "{tmp}/out", "--adapter", "--verify"], "--verify reloads a published folder"),
    ],
)
def test_faults_are_one_sentence_and_leave_nothing(
    run: Path, tmp_path: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    filled = [argument.format(run=run, tmp=tmp_path, base=small_checkpoint) for argument in arguments]
    assert convert.main(filled) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()
