"""What a training file of upstream's own trainer holds, or a folder with adapters as PEFT writes them.

Keys of a ``.pth`` are ``mllm.model.<published key>`` (with DDP's ``module.`` before it or not), PEFT's names inside what upstream's
trainer adapts (``Layout.adapted``: InternVL's language model, or all of a Qwen-VL), ``text_hidden_fcs...`` and ``grounding_encoder...``;
the dictionary is plain or under ``state_dict``.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core.contracts import UserError
from plugins.models.sa2va.groups import Lora

_MAPPED = 2**25  # bytes of a file that are in memory at one time
_ADAPTER = re.compile(r"((?:model\.)*language_model\..+)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True)
class Stored:
    """What a training file or a folder of adapters holds; the tensors themselves stay in it."""

    file: Path
    adapters: dict[tuple[str, str], str]  # (published key of the layer's weight, "A" or "B") -> key in the file
    plain: dict[str, str]  # published key -> key in the file
    lora: Lora | None
    base: str | None = None  # the hash of the weights that training started from, where the file has it

    def tensors(self, keys: Collection[str]) -> Iterator[Tensor]:
        """Those with ``keys``, in their order; little of the file is in memory at one time."""
        waiting = deque(keys)
        while waiting:
            tensors, read = open_tensors(self.file)[0], 0  # reopened from time to time: what was read stays in memory until then
            while waiting and read < _MAPPED:
                tensor = tensors[waiting.popleft()]
                read += tensor.nbytes
                yield tensor


def read_trained(file: Path, adapted: str, lora_alpha: int | None = None, lora_dropout: float = 0.05) -> Stored:
    """Which tensors there are, and the adapters' settings; ``adapted``: of the layout. Raises ``UserError``."""
    tensors, meta = open_tensors(file)
    adapters: dict[tuple[str, str], str] = {}
    plain: dict[str, str] = {}
    ranks: set[int] = set()
    copies = {published_name(key, adapted) for key in tensors if ".original_module." not in key}
    for key, tensor in tensors.items():
        name = published_name(key, adapted)
        if ".original_module." in key and name in copies:  # PEFT keeps a module as it was beside the trained one (modules_to_save)
            continue
        if match := _ADAPTER.fullmatch(name):
            adapters[f"{match[1]}.weight", match[2]] = key
            ranks |= {tensor.shape[0]} if match[2] == "A" else set()
        elif name in plain:
            raise UserError(f"{file}: {plain[name]} and {key} are both {name}; which is meant cannot be told, remove one")
        else:
            plain[name] = key
    if len(ranks) > 1:
        raise UserError(f"{file}: adapters of several ranks ({', '.join(map(str, sorted(ranks)))}) are not supported")
    lora = Lora(r=ranks.pop(), alpha=lora_alpha or meta.get("lora_alpha") or 256, dropout=lora_dropout) if ranks else None
    return Stored(file, adapters, plain, lora, meta.get("base_sha256"))


def open_tensors(file: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors of a ``.pth`` or of a folder of adapters, mapped into memory, and what else is known of them. Raises ``UserError``.

    ``lora_alpha``: the adapters' alpha. ``base_sha256``: ``folder.weights_hash`` of what training started from.
    """
    return read_adapter(file) if file.is_dir() else read_pth(file)


def published_name(key: str, adapted: str) -> str:
    """The published key of a training file's key; adapters keep ``.lora_A`` and ``.lora_B``. ``adapted``: of the layout."""
    name = key.removeprefix("module.").removeprefix("mllm.model.").removeprefix(adapted)
    if (inner := name.removeprefix("base_model.model.")) != name:  # PEFT's, around what is adapted
        name = adapted + inner
    else:
        name = f"model.{name}" if name.startswith(("visual.", "language_model.")) else name  # of a Qwen-VL without adapters
        name = adapted + name if name.startswith(("model.", "lm_head.", "output.")) else name
    for wrapper in (".base_layer", ".modules_to_save.default", ".modules_to_save", ".original_module"):
        name = name.replace(wrapper, "")
    return re.sub(r"(memory_encoder\.fuser\.layers\.\d+)\.gamma$", r"\1.g_weight", name)


def read_pth(file: Path, under: str = "state_dict") -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors of a ``.pth``, plain or ``{meta, state_dict}``, and its ``meta``. ``under``: the key where they may lie.

    Nothing but tensors and plain containers is unpickled.
    """
    try:
        # what torch saved before its version 1.6 cannot be mapped
        stored = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except FileNotFoundError:
        raise UserError(f"{file}: not found") from None
    except pickle.UnpicklingError as error:
        if foreign := re.search(r"GLOBAL (\S+)", str(error)):
            alone = f"""torch.save({{"{under}": torch.load("{file.name}", weights_only=False)["{under}"]}}, "NEW.pth")"""
            raise UserError(
                f"{file}: refused, it holds Python objects ({foreign[1]}) besides tensors; save its {under} alone, where you trust the "
                f"file and what wrote it is installed: {alone}"
            ) from None
        raise UserError(f"{file}: not a torch file; a training file is what torch.save writes") from None
    except (RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{file}: not a complete torch file ({str(error).splitlines()[0]}); copy it again") from None
    state = stored.get(under, stored) if isinstance(stored, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file}: not a dictionary of tensors, nor one under '{under}'")
    meta = stored.get("meta") if state is not stored else None
    return dict(state), meta if isinstance(meta, Mapping) else {}


#: Of PEFT's settings, what would make the adapters compute something else, and the values that do not.
_PLAIN = {"peft_type": "LORA", "bias": "none", "use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}}


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors of a folder with adapters of the language model as PEFT writes them, and their ``lora_alpha``."""
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        alpha = int(settings["lora_alpha"])
        tensors = load_file(weights)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename or weights}: not found; PEFT's adapters are adapter_config.json and adapter_model.safetensors"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config}: not a configuration of PEFT's adapters ({error})") from None
    except SafetensorError as error:
        raise UserError(f"{weights}: damaged safetensors file ({error}); copy it again") from None
    if other := [f"{key} {settings[key]!r}" for key, value in _PLAIN.items() if (settings.get(key) or value) != value]:
        raise UserError(f"{config}: {', '.join(other)} is not supported; only plain LoRA adapters are")
    return tensors, {"lora_alpha": alpha}
