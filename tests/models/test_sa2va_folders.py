"""What counts as the weights of a folder, and the sentence for a folder that is something else."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import CHECKPOINT, copy, write_shards
from safetensors.torch import load_file, save_file

from core.commands import convert
from core.contracts import UserError
from plugins.models.sa2va.components import load, load_legacy
from plugins.models.sa2va.published.config import read_config
from plugins.models.sa2va.published.export import save
from plugins.models.sa2va.published.folder import same_values, shards, stored_tensors, stray
from plugins.models.sa2va.published.other_folders import told
from plugins.models.sa2va.published.tokenizer import read_tokenizer
from plugins.models.sa2va.published.training_file import read_trained

EMBEDDINGS, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


def small(folder: Path, **files: list[str]) -> Path:
    """Safetensors files by the stem of their names, each with these keys."""
    folder.mkdir(exist_ok=True)
    for name, keys in files.items():
        save_file({key: torch.ones(1) for key in keys}, folder / f"{name.replace('__', '-')}.safetensors")
    return folder


def index(folder: Path, **listed: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))


def test_other_files_beside_the_weights_are_not_read(tmp_path: Path) -> None:
    folder = copy(tmp_path / "stray")
    save_file({key: tensor * 0 for key, tensor in stored_tensors(CHECKPOINT)}, folder / "model_backup.safetensors")
    assert shards(folder) == [folder / "model.safetensors"]
    assert stray(folder) == ["model_backup.safetensors"]
    with pytest.warns(UserWarning, match=r"model_backup\.safetensors is not read"):
        model = load(checkpoint=folder)
    assert torch.equal(model.embedding(), load(checkpoint=CHECKPOINT).embedding())


def test_an_index_alone_says_which_files_are_read(tmp_path: Path) -> None:
    folder = small(tmp_path, one=["a"], two=["b"], three=["a", "b"])
    index(folder, a="one.safetensors", b="two.safetensors")
    assert dict(stored_tensors(folder)).keys() == {"a", "b"}
    assert stray(folder) == ["three.safetensors"]


UNCLEAR: dict[str, tuple[Callable[[Path], object], str]] = {
    "one key in two files": (
        lambda f: (small(f, one=["a", "b"], two=["b"]), index(f, a="one.safetensors", b="two.safetensors")),
        "two.safetensors: b is in one.safetensors too",
    ),
    "a key that is not where the index says": (
        lambda f: (small(f, one=["a"], two=["b"]), index(f, a="one.safetensors", b="two.safetensors", c="two.safetensors")),
        "c is not in two.safetensors, where the index has it",
    ),
    "a file of the index is missing": (
        lambda f: (small(f, one=["a"]), index(f, a="one.safetensors", b="two.safetensors")),
        "missing two.safetensors, which model.safetensors.index.json lists",
    ),
    "an index and a whole file": (
        lambda f: (small(f, one=["a"], model=["a"]), index(f, a="one.safetensors")),
        "remove the one that is not meant",
    ),
    "an empty index": (lambda f: index(small(f)), "it lists no tensor"),
    "an index that leads elsewhere": (
        lambda f: index(small(f), a="../one.safetensors"),
        "'../one.safetensors' is no file of its own folder",
    ),
    "pieces without their index": (
        lambda f: small(f, model__00001__of__00002=["a"], model__00002__of__00002=["b"]),
        "copy the index again",
    ),
    "a file of another name": (lambda f: small(f, weights=["a"]), "rename the one that holds the weights to model.safetensors"),
    "a pointer of Git LFS": (lambda f: (small(f) / "model.safetensors").write_bytes(POINTER), "run `git lfs pull`"),
    "an index that is a pointer": (lambda f: (small(f) / "model.safetensors.index.json").write_bytes(POINTER), "run `git lfs pull`"),
    "a cut file": (lambda f: (small(f, model=["a"]) / "model.safetensors").write_bytes(b"\x08"), "damaged safetensors file"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_weights_that_are_not_clear_are_refused(case: str, tmp_path: Path) -> None:
    make, sentence = UNCLEAR[case]
    make(tmp_path / "folder")
    with pytest.raises(UserError) as caught:
        shards(tmp_path / "folder")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


OTHERS = {
    "ZeRO as DeepSpeed names it": (["latest", "zero_to_fp32.py", "global_step10/mp_rank_00_model_states.pt"], "zero_to_fp32 {folder} OUT "),
    "ZeRO, one step of it": (["bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"], "{parent} OUT -t {name} "),
    "upstream's iterations": (["iter_500.pth", "iter_1000.pth", "last_checkpoint"], "such as {folder}/iter_1000.pth, and"),
    "upstream's iterations with ZeRO": (
        ["iter_500.pth/mp_rank_00_model_states.pt", "iter_500.pth/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "last_checkpoint"],
        "zero_to_fp32 {folder} OUT -t iter_500.pth ",
    ),
    "pickled weights": (
        ["config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
        "only safetensors are read",
    ),
    "adapters": (["adapter_config.json", "adapter_model.safetensors"], "PEFT's adapters"),
    "a run": (["recipe.json", "recipe.yaml"], "python -m core.convert {folder} OUT"),
    "torch.distributed": ([".metadata", "__0_0.distcp"], "dcp_to_torch {folder} OUT.pth"),
    "a download's cache": (["blobs/1", "refs/main", "snapshots/abc/config.json"], "there is one in {folder}/snapshots/abc"),
    "a folder in a folder": (["Sa2VA-4B/config.json"], "there is one in {folder}/Sa2VA-4B"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_folder_that_is_something_else_is_told_with_the_remedy(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, sentence = OTHERS[case]
    folder = tmp_path / "other"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    expected = sentence.format(folder=folder, parent=folder.parent, name=folder.name)
    assert expected in str(told(folder))
    checked = load.check_keys  # type: ignore[attr-defined]
    with pytest.raises(UserError) as caught:  # a recipe's check
        checked(checkpoint=folder)
    assert expected in str(caught.value)
    if case not in ("a run", "adapters", "pickled weights"):  # which the commands read, or take for a published folder at first
        assert convert.main([str(folder), str(tmp_path / "out")]) == 2
        assert expected in capsys.readouterr().err


def test_a_checkpoint_is_nothing_else(tmp_path: Path) -> None:
    assert told(CHECKPOINT) is None
    assert told(tmp_path) is None
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file has no config\.json"):
        load.check_keys(checkpoint=tmp_path / "file")  # type: ignore[attr-defined]


def tied(folder: Path, head: torch.Tensor | None, pieces: int = 1) -> Path:
    """The reference checkpoint with a config that ties the output layer, and this one stored."""
    shutil.copytree(CHECKPOINT, folder)
    config = json.loads((folder / "config.json").read_text())
    config["llm_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    tensors = dict(stored_tensors(CHECKPOINT))
    del tensors[HEAD]
    (folder / "model.safetensors").unlink()
    write_shards(folder, tensors if head is None else tensors | {HEAD: head}, pieces)
    return folder


def test_a_stored_output_layer_is_kept_where_the_config_ties_it(tmp_path: Path) -> None:
    stored = dict(stored_tensors(CHECKPOINT))
    folder = tied(tmp_path / "other", stored[HEAD], 3)
    assert same_values(folder, EMBEDDINGS, HEAD) is False
    with pytest.warns(UserWarning, match="stores another output layer; the stored one is kept"):
        model = load(checkpoint=folder)
    assert torch.equal(model.head()[0], stored[HEAD])
    assert torch.equal(model.embedding(), stored[EMBEDDINGS])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_config(tied(tmp_path / "equal", stored[EMBEDDINGS].clone())).backend.llm.tie_word_embeddings
        assert read_config(tied(tmp_path / "none", None)).backend.llm.tie_word_embeddings


def test_an_export_of_trained_embeddings_changes_a_tied_output_layer_too(tmp_path: Path) -> None:
    """The folder stores the layer a second time; left as it was, it would count as one of its own."""
    folder = tied(tmp_path / "base", dict(stored_tensors(CHECKPOINT))[EMBEDDINGS].clone())
    model = load(checkpoint=folder, train=["embeddings"])
    with torch.no_grad():
        model.embedding().add_(1)
    save(model, folder, tmp_path / "out")
    assert same_values(tmp_path / "out", EMBEDDINGS, HEAD)
    assert torch.equal(dict(stored_tensors(tmp_path / "out"))[HEAD], model.embedding())


def test_tokens_beyond_the_embedding_are_refused() -> None:
    rows = read_config(CHECKPOINT).backend.llm.vocab_size
    assert len(read_tokenizer(CHECKPOINT, rows)) <= rows
    with pytest.raises(UserError, match=r"has 2 tokens for which the embedding, of 534 rows, has none: '.*' \(534\), '.*' \(535\); copy"):
        read_tokenizer(CHECKPOINT, 534)


def test_pointers_in_the_place_of_small_files_are_told(tmp_path: Path) -> None:
    folder = copy(tmp_path / "clone")
    (folder / "tokenizer.json").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"tokenizer\.json: only the pointer of Git LFS"):
        read_tokenizer(folder, 536)
    (folder / "config.json").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"config\.json: only the pointer of Git LFS"):
        read_config(folder)


# ------------------------------------------------------------------------------ training files with more than the method's groups


def saved_modules(file: Path, checkpoint: Path = CHECKPOINT) -> dict[str, torch.Tensor]:
    """A training file as upstream writes it with modules_to_save; returns the published tensors that it changes."""
    base = dict(stored_tensors(checkpoint))
    changed = {key: base[key] + 0.5 for key in base if key.startswith("mlp1.") or key in (EMBEDDINGS, HEAD)}
    state = {f"mllm.model.{key}": tensor for key, tensor in changed.items() if key.startswith("mlp1.")}
    for key in (EMBEDDINGS, HEAD):
        stem = "mllm.model.language_model.base_model.model." + key.removeprefix("language_model.").removesuffix(".weight")
        state |= {f"{stem}.modules_to_save.default.weight": changed[key], f"{stem}.original_module.weight": base[key]}
    torch.save({"meta": {}, "state_dict": state}, file)
    return changed


@pytest.mark.filterwarnings("ignore:.*left out")
def test_trained_embeddings_are_left_out_aloud_or_taken(tmp_path: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, based = tmp_path / "iter_10.pth", ["--base", str(small_checkpoint)]
    changed, base = saved_modules(file, small_checkpoint), dict(stored_tensors(small_checkpoint))
    assert convert.main([str(file), str(tmp_path / "out"), *based, "--verify"]) == 0
    said = capsys.readouterr().out
    assert "equal" not in said
    assert f"LEFT OUT: 2 trained tensors of embeddings that {file} holds ({EMBEDDINGS}, {HEAD})" in said
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(out[HEAD], base[HEAD])
    assert torch.equal(out["mlp1.1.weight"], changed["mlp1.1.weight"])
    assert convert.main([str(file), str(tmp_path / "all"), *based, "--verify", "--groups", "full+embeddings"]) == 0
    said = capsys.readouterr().out
    assert "LEFT OUT" not in said
    assert "verified by reloading: equal" in said
    out = load_file(tmp_path / "all" / "model.safetensors")
    assert all(torch.equal(out[key], tensor) for key, tensor in (base | changed).items())
    assert convert.main([str(file), str(tmp_path / "some"), *based, "--groups", "embeddings", "--json"]) == 0
    moved = {row["group"] for row in json.loads(capsys.readouterr().out)["changes"] if row["changed"]}
    assert moved == {"embeddings"}
    assert convert.main([str(file), str(tmp_path / "no"), *based, "--groups", "full+vision_model"]) == 2
    assert "holds no tensors of the group vision_model" in capsys.readouterr().err


def test_what_is_left_out_is_told_wherever_the_file_is_read(tmp_path: Path) -> None:
    saved_modules(tmp_path / "iter_10.pth")
    with pytest.warns(UserWarning, match=r"left out: 2 tensors, .*take: \[embeddings\]"):
        model = load_legacy(file=tmp_path / "iter_10.pth", checkpoint=CHECKPOINT)
    assert model.left_out() == {"embeddings": [EMBEDDINGS, HEAD]}
    assert "embeddings" not in model.trainable()
    status, text = load_legacy.facts(file=tmp_path / "iter_10.pth", checkpoint=CHECKPOINT)["left_out"]  # for core.check, without the model
    assert (status, f"{EMBEDDINGS}, {HEAD}, whose values are not the base's; take: [embeddings]" in text) == ("warn", True)
    taken = load_legacy.facts(file=tmp_path / "iter_10.pth", checkpoint=CHECKPOINT, take=["embeddings"])["left_out"]
    assert taken[0] == "pass"
    base = {
        f"mllm.model.{key}": tensor for key, tensor in stored_tensors(CHECKPOINT) if key.startswith("mlp1.") or key in (EMBEDDINGS, HEAD)
    }
    torch.save(base, tmp_path / "same.pth")
    assert load_legacy.facts(file=tmp_path / "same.pth", checkpoint=CHECKPOINT)["left_out"][0] == "pass"


def test_other_frozen_groups_that_were_trained_are_named_with_the_option(tmp_path: Path) -> None:
    state = {f"mllm.model.{key}": tensor + 1 for key, tensor in stored_tensors(CHECKPOINT) if key.startswith(("mlp1.", "vision_model."))}
    torch.save(state, tmp_path / "iter_10.pth")
    with pytest.raises(UserError, match=r"take their groups: --groups full\+vision_model"):
        load_legacy(file=tmp_path / "iter_10.pth", checkpoint=CHECKPOINT)
    model = load_legacy(file=tmp_path / "iter_10.pth", checkpoint=CHECKPOINT, take=["vision_model"])
    assert "vision_model" in model.trainable()
    key = "vision_model.encoder.layers.0.ls1"
    assert torch.equal(model.network.vision.encoder.layer[0].lambda_1, state[f"mllm.model.{key}"])


def test_a_training_file_of_our_own_knows_its_base(tmp_path: Path, small_checkpoint: Path) -> None:
    load(checkpoint=small_checkpoint).save_legacy(tmp_path / "own.pth")
    shutil.copytree(small_checkpoint, tmp_path / "moved")
    (tmp_path / "moved" / "notes.json").write_text("{}")
    load_legacy(file=tmp_path / "own.pth", checkpoint=tmp_path / "moved")
    tensors = dict(stored_tensors(small_checkpoint))
    tensors[HEAD] = tensors[HEAD] + 1
    save_file(tensors, tmp_path / "moved" / "model.safetensors")
    with pytest.raises(UserError, match=r"was not trained over .*moved, whose weights are others"):
        load_legacy(file=tmp_path / "own.pth", checkpoint=tmp_path / "moved")


def test_a_tied_base_cannot_take_an_output_layer_of_its_own(tmp_path: Path) -> None:
    saved_modules(tmp_path / "iter_10.pth")
    folder = tied(tmp_path / "base", None)
    with pytest.raises(UserError, match="cannot be taken beside its embeddings"):
        load_legacy(file=tmp_path / "iter_10.pth", checkpoint=folder, take=["embeddings"])


def test_one_name_for_two_tensors_of_a_training_file_is_refused(tmp_path: Path) -> None:
    torch.save({"mllm.model.mlp1.0.bias": torch.zeros(1), "module.mllm.model.mlp1.0.bias": torch.ones(1)}, tmp_path / "two.pth")
    with pytest.raises(UserError, match=r"are both mlp1\.0\.bias"):
        read_trained(tmp_path / "two.pth", "language_model.")


def test_an_export_has_all_that_upstreams_loader_wants(tmp_path: Path) -> None:
    """Byte for byte, whatever it says; nothing of it is executed, and no weights of another kind are taken along."""
    base = copy(tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | {"auto_map": {"AutoModel": "modeling_sa2va_chat.Sa2VAChatModel"}}
    (base / "config.json").write_text(json.dumps(config, indent=3))
    texts = ["modeling_sa2va_chat.py", "sam2.py", "chat_template.jinja", "preprocessor_config.json", "additional_chat_templates/tool.jinja"]
    (base / "additional_chat_templates").mkdir()
    for name in texts:
        (base / name).write_text("raise SystemExit('executed')\n")
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "training_args.bin"):
        (base / name).write_text("weights")
    save(load(checkpoint=base), base, tmp_path / "out")
    kept = {str(file.relative_to(base)): file.read_bytes() for file in base.rglob("*") if file.is_file()}
    out = {str(file.relative_to(tmp_path / "out")): file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert set(texts) | {"config.json", "generation_config.json", "tokenizer.json", "added_tokens.json"} <= set(out)
    assert not [name for name in out if name.endswith((".bin", ".h5", ".bin.index.json"))]
    assert all(kept[name] == content for name, content in out.items() if name != "model.safetensors")
    assert dict(stored_tensors(tmp_path / "out")).keys() == dict(stored_tensors(base)).keys()
