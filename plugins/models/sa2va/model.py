"""``sa2va``: a published Sa2VA checkpoint as a trainable model with four named parameter groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2Tokenizer
from transformers.initialization import no_init_weights

from core.contracts import Noise, Prediction, RegionBatch, Segmentation, Tokens, UserError, Wording
from plugins.models.sa2va import prompts
from plugins.models.sa2va.config import read_config
from plugins.models.sa2va.folder import load_into, native_tensors, published_tensor, stored_tensors, write_folder
from plugins.models.sa2va.generation import Generated, greedy
from plugins.models.sa2va.keys import place
from plugins.models.sa2va.network import Network, Vision
from plugins.models.sa2va.preparation import Sa2vaPreparation, grid_cells, sam_picture, tiles_of

if TYPE_CHECKING:
    from peft import LoraConfig

Group = Literal["projector", "text_hidden_fcs", "lora", "sam2_decoder", "vision_model", "language_model", "embeddings", "sam2_encoder"]
PUBLISHED_GROUPS: tuple[Group, ...] = ("projector", "text_hidden_fcs", "lora", "sam2_decoder")
_PREFIXES: list[tuple[str, Group]] = [  # the first that fits a parameter's name
    ("projector.", "projector"),
    ("text_hidden_fcs.", "text_hidden_fcs"),
    ("sam2.mask_decoder.", "sam2_decoder"),
    ("sam2.", "sam2_encoder"),
    ("vision.", "vision_model"),
    ("llm.model.embed_tokens.", "embeddings"),
    ("llm.lm_head.", "embeddings"),
    ("llm.", "language_model"),
]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on all linear layers of the language model but its head (Hu et al. 2021)."""

    r: int = 128
    alpha: int = 256
    dropout: float = 0.05


def load(
    *,
    checkpoint: Path,
    lora: Lora | None = None,
    train: list[Group] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    max_tiles: int = 12,
    sam_constants: Literal["exact", "bfloat16"] = "exact",
) -> Sa2va:
    """Loads a folder in the published layout.

    ``train`` names the trained groups (default: the four of the method, without ``lora`` if there are no adapters);
    ``dtype`` is that of frozen weights, trained ones are float32. ``max_tiles`` bounds the tiles of a picture in training
    and inference; published checkpoints use 12. ``sam_constants: bfloat16`` rounds the mean and std of SAM2's pictures as
    upstream's inference does, which flips up to 0.3 % of a mask's pixels; its training does not.
    Raises ``UserError`` for a folder that is no complete Sa2VA checkpoint.
    """
    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint}: no such checkpoint folder; give the folder that holds config.json and *.safetensors")
    config = read_config(checkpoint)
    with no_init_weights():
        network = Network(config)
    frozen = getattr(torch, dtype)
    for parameter in network.parameters():  # not .to(): float32 buffers such as rotary frequencies keep their precision
        parameter.data = parameter.data.to(frozen)
    load_into(network, checkpoint)
    if sam_constants == "bfloat16":
        network.sam_constants = torch.bfloat16
    if config.llm.tie_word_embeddings:
        network.llm.tie_weights()
    return Sa2va(network, Qwen2Tokenizer.from_pretrained(checkpoint), checkpoint, lora, train, max_tiles)


class Sa2va(nn.Module):
    """Obeys ``core.contracts.Model``; see there for shapes."""

    def __init__(
        self,
        network: Network,
        tokenizer: Qwen2Tokenizer,
        base: Path | None,
        lora: Lora | None,
        train: list[Group] | None,
        max_tiles: int,
    ) -> None:
        super().__init__()
        self.network, self.tokenizer, self.base = network, tokenizer, base
        config = network.config
        self.turn = prompts.turn_format(config.template)
        self.preparation = Sa2vaPreparation(config.tile, config.sam_size, config.grid, max_tiles)
        self.adapters = _add_lora(network, lora) if lora is not None else None
        self._choose_trained(train if train is not None else [g for g in PUBLISHED_GROUPS if g != "lora" or lora is not None])
        self.seg_token = self._one_token(prompts.SEG)
        self.image_token = self._one_token(prompts.IMAGE_TOKEN)
        self.pad_token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
        self.ordinary_tokens = torch.tensor([i for i in range(len(tokenizer)) if i not in special])
        self._end_ids = self._ids(self.turn.end)

    # ------------------------------------------------------------------------------------------ parameter groups

    def _choose_trained(self, groups: Sequence[Group]) -> None:
        self._trainable: dict[str, list[tuple[str, nn.Parameter]]] = {group: [] for group in groups}
        for name, parameter in self.network.named_parameters():
            group = group_of(name)
            parameter.requires_grad_(group in self._trainable)
            if group in self._trainable:
                parameter.data = parameter.data.float()  # float32 masters
                self._trainable[group].append((name, parameter))
        if empty := [group for group, members in self._trainable.items() if not members]:
            raise UserError(f"model.train names {', '.join(empty)}, which has no parameters here; 'lora' needs the key 'model.lora'")

    def trainable(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        return self._trainable

    # ------------------------------------------------------------------------------------------ tokens

    def _one_token(self, text: str) -> int:
        ids = self._ids(text)
        if len(ids) != 1:
            raise UserError(f"{self.base}: {text!r} is {len(ids)} tokens in this tokenizer; Sa2VA needs it as one special token")
        return ids[0]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _rows(self, rows: Sequence[Sequence[int]]) -> Tokens:
        longest = max(1, *map(len, rows)) if rows else 1
        ids = torch.full((len(rows), longest), self.pad_token)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[i, : len(row)] = True
        return Tokens(ids.to(self.device), mask.to(self.device))

    @property
    def device(self) -> torch.device:
        return self.network.llm.lm_head.weight.device

    def tokenize(self, texts: Sequence[str], length: int) -> Tokens:
        return self._rows([self._ids(text.strip() + self.turn.end)[:length] for text in texts])

    def phrases(self, texts: Sequence[str], length: int) -> Tokens:
        return self._rows([self._ids(" " + text.strip())[:length] for text in texts])

    def decode(self, tokens: Tokens) -> list[str]:
        return [self._text(ids[mask].tolist()) for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]

    def _text(self, ids: list[int]) -> str:
        text = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        return text.split(self.turn.end)[0].replace(self.tokenizer.eos_token or self.turn.end, "").strip()

    def embed(self, ids: Tensor) -> Tensor:
        return self.network.llm.model.embed_tokens(ids)

    def embedding(self) -> Tensor:
        return self.network.llm.model.embed_tokens.weight

    def head(self) -> tuple[Tensor, Tensor | None]:
        return self.network.llm.lm_head.weight, self.network.llm.lm_head.bias

    # ------------------------------------------------------------------------------------------ pictures

    def encode(self, batch: RegionBatch) -> Vision:
        return self._vision(batch.tiles, batch.tile_counts, batch.sam_pictures)

    def _vision(self, tiles: Tensor, counts: list[int], pictures: Tensor) -> Vision:
        # gradient as it is now: the first use may be the teacher's, which has none
        grad = torch.is_grad_enabled()

        def tile_features() -> list[Tensor]:
            with torch.set_grad_enabled(grad and "vision_model" in self._trainable):
                return list(self.network.tile_features(tiles).split(counts))

        def sam_features() -> tuple[Tensor, Tensor, Tensor]:
            with torch.set_grad_enabled(grad and "sam2_encoder" in self._trainable):
                return self.network.sam_features(pictures)

        return Vision(tile_features, sam_features)

    def look(self, image: np.ndarray) -> Vision:
        """Features of one picture [H, W, 3] uint8."""
        tiles = torch.from_numpy(tiles_of(image, self.preparation.tile, self.preparation.max_tiles)).to(self.device)
        picture = torch.from_numpy(sam_picture(image, self.preparation.sam_size))[None].to(self.device)
        return self._vision(tiles, [len(tiles)], picture)

    def _image_tokens(self, vision: Vision, view: Tensor) -> list[Tensor]:
        """Projected tokens of each row's picture, B of [n_i * G*G, D]; each picture goes through the projector once."""
        pictures, rows = view.unique(return_inverse=True)
        chosen = [vision.tiles[i] for i in pictures.tolist()]
        projected = self.network.image_tokens(torch.cat(chosen)).split([len(tiles) for tiles in chosen])
        return [projected[i].flatten(0, 1) for i in rows.tolist()]

    # ------------------------------------------------------------------------------------------ sequences

    def _sequence(self, text: str, features: Tensor) -> Tensor:
        """Embeds a prompt [L, D]; ``features`` [n, D] take the places of its image tokens, left to right."""
        ids = torch.tensor(self._ids(text), device=self.device)
        places = ids == self.image_token
        if int(places.sum()) != len(features):
            raise ValueError(f"{int(places.sum())} image tokens in the prompt, {len(features)} features")
        return torch.masked_scatter(self.embed(ids).to(features.dtype), places[:, None], features)

    def _describe_prompts(self, vision: Vision, view: Tensor, cells: Tensor, gate: Tensor | None = None) -> list[Tensor]:
        sequences = []
        for row, image in enumerate(self._image_tokens(vision, view)):
            last = image[-(self.network.config.grid**2) :]  # the thumbnail or the only tile [G*G, D]
            chosen = cells[row].flatten()  # [G*G]
            region = last[chosen] if gate is None else last[chosen] * gate[row].flatten()[chosen, None].to(last.dtype)
            count = int(chosen.sum())
            text = prompts.describe_turn(self.turn, len(image), count or None)
            sequences.append(self._sequence(text, torch.cat([image, region])))
        return sequences

    def caption_states(self, vision: Vision, view: Tensor, cells: Tensor, captions: Tokens, gate: Tensor | None = None) -> Tensor:
        heads = self._describe_prompts(vision, view, cells, gate)
        bodies = [self.embed(ids[mask]) for ids, mask in zip(captions.ids, captions.mask, strict=True)]
        return self._predicting(heads, bodies, captions.mask.shape[1])[0]

    def _predicting(self, heads: list[Tensor], bodies: list[Tensor], length: int) -> tuple[Tensor, Tensor]:
        """States that predict each body token [B, length, D] (zero at padding), and those after reading it, of one forward."""
        sequences = [torch.cat([head, body.to(head.dtype)]) for head, body in zip(heads, bodies, strict=True)]
        states = self.network.hidden_states(pad_sequence(sequences, batch_first=True))  # [B, L, D]
        before, after = [], []
        for row, (head, body) in enumerate(zip(heads, bodies, strict=True)):
            span, missing = states[row, len(head) - 1 : len(head) + len(body)], length - len(body)
            before.append(F.pad(span[:-1], (0, 0, 0, missing)))
            after.append(F.pad(span[1:], (0, 0, 0, missing)))
        return torch.stack(before), torch.stack(after)

    def wording(self, samples: Sequence[str], noise: Noise | None) -> Wording:
        before, after, answers = [], [], []
        for sample in samples:
            question, answer = 0, 0
            if noise is not None:
                generator = noise.generator(sample, "wording")
                question = int(torch.randint(len(prompts.SEGMENT), (), generator=generator))
                answer = int(torch.randint(len(prompts.ANSWERS), (), generator=generator))
            before.append(prompts.SEGMENT[question][0])
            after.append(prompts.SEGMENT[question][1])
            answers.append(self._ids(prompts.ANSWERS[answer] + self.turn.end))
        return Wording(before, after, self._rows(answers))

    def _segment_prompts(
        self, vision: Vision, view: Tensor, text: list[Tensor], before: Sequence[str], after: Sequence[str]
    ) -> list[Tensor]:
        sequences = []
        for row, image in enumerate(self._image_tokens(vision, view)):
            left, right = prompts.segment_turn(self.turn, len(image), before[row], after[row])
            tail = self.embed(torch.tensor(self._ids(right), device=self.device))
            sequences.append(torch.cat([self._sequence(left, image), text[row].to(image.dtype), tail.to(image.dtype)]))
        return sequences

    def segment(self, vision: Vision, view: Tensor, text: Tensor, text_mask: Tensor, wording: Wording) -> Segmentation:
        phrases = [row[mask] for row, mask in zip(text, text_mask, strict=True)]  # B of [t_i, D]
        heads = self._segment_prompts(vision, view, phrases, wording.before, wording.after)
        answers = wording.answers
        bodies = [self.embed(ids[mask]) for ids, mask in zip(answers.ids, answers.mask, strict=True)]
        before, after = self._predicting(heads, bodies, answers.mask.shape[1])
        seg = (answers.ids == self.seg_token).float().argmax(1)  # [B], where the answer holds [SEG]
        embedding = self.seg_embedding(after[torch.arange(len(seg), device=seg.device), seg])  # [B, D2]
        return Segmentation(self.masks(vision, view, embedding), before, embedding.float())

    def seg_embedding(self, states: Tensor) -> Tensor:
        return self.network.text_hidden_fcs(states)

    def masks(self, vision: Vision, view: Tensor, embedding: Tensor) -> Tensor:
        """[SEG] embeddings [B, D2] -> low-resolution mask logits [B, h, w] float32."""
        return self.network.masks(vision.fpn, view, embedding)[0]

    # ------------------------------------------------------------------------------------------ generation

    def _ended(self, ids: list[int]) -> bool:
        if ids[-1] == self.tokenizer.eos_token_id or ids[-len(self._end_ids) :] == self._end_ids:
            return True
        # the end may have merged with the text before it: then only the text tells
        return self.turn.end in str(self.tokenizer.decode(ids[-len(self._end_ids) - 2 :])).replace("\n", "")

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without dropout: a teacher that labels data inside a training step must not be noisy."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    @torch.no_grad()
    def generate(self, vision: Vision, view: Tensor, cells: Tensor, length: int) -> Tokens:
        with self._evaluating():
            generated = greedy(self.network, self._describe_prompts(vision, view, cells), length, self._ended)
        return self._rows([self._without_end(ids) for ids in generated.ids])

    def _without_end(self, ids: list[int]) -> list[int]:
        while ids and self._ended(ids):
            ids = ids[:-1]
        return ids

    @torch.no_grad()
    def predict(self, image: np.ndarray, phrases: Sequence[str], max_new_tokens: int) -> list[Prediction]:
        vision = self.look(image)
        view = torch.zeros(len(phrases), dtype=torch.long, device=self.device)
        before, after = prompts.SEGMENT[0]
        text = [self.embed(torch.tensor(self._ids(" " + phrase.strip()), device=self.device)) for phrase in phrases]
        heads = self._segment_prompts(vision, view, text, [before] * len(phrases), [after] * len(phrases))
        with self._evaluating():
            generated = greedy(self.network, heads, max_new_tokens, self._ended)
        masks: list[np.ndarray | None] = [None] * len(phrases)
        with_seg, states = self._first_seg(generated)
        if with_seg:
            embedding = self.seg_embedding(torch.stack(states))
            logits = self.masks(vision, view[with_seg], embedding)
            for row, mask in zip(with_seg, self.network.final_mask(logits, *image.shape[:2]), strict=True):
                masks[row] = mask.cpu().numpy()
        return [Prediction(self._text(ids), mask) for ids, mask in zip(generated.ids, masks, strict=True)]

    @torch.no_grad()
    def ask(
        self, image: np.ndarray, question: str, regions: np.ndarray | None = None, max_new_tokens: int = 512, newlines: int = 1
    ) -> tuple[str, list[np.ndarray]]:
        """Answers a free question about a picture [H, W, 3] uint8, with a mask [H, W] bool for each [SEG] of the answer.

        ``regions`` [n, H, W] bool are listed in the prompt as region1, region2, ...; ``newlines`` stand between the list and
        the question: 1 as checkpoints were trained, 2 as upstream's inference writes.
        """
        vision = self.look(image)
        [features] = self._image_tokens(vision, torch.zeros(1, dtype=torch.long, device=self.device))  # [n * G*G, D]
        grid = self.preparation.grid
        cells = None if regions is None else [torch.from_numpy(grid_cells(region, grid)).flatten().to(self.device) for region in regions]
        counts = None if cells is None else [int(cell.sum()) for cell in cells]
        text = prompts.question_turn(self.turn, len(features), question, counts, newlines)
        prompt = self._sequence(text, torch.cat([features, *(features[-(grid**2) :][cell] for cell in cells or [])]))
        with self._evaluating():
            generated = greedy(self.network, [prompt], max_new_tokens, self._ended)
        [ids] = generated.ids
        read = [generated.state(0, place) for place, token in enumerate(ids[:-1]) if token == self.seg_token]
        states = [state for state in read if state is not None]
        if not states:
            return self._text(ids), []
        view = torch.zeros(len(states), dtype=torch.long, device=self.device)
        logits = self.masks(vision, view, self.seg_embedding(torch.stack(states)))
        return self._text(ids), list(self.network.final_mask(logits, *image.shape[:2]).cpu().numpy())

    def _first_seg(self, generated: Generated) -> tuple[list[int], list[Tensor]]:
        rows, states = [], []
        for row, ids in enumerate(generated.ids):
            # a [SEG] that is the very last token was never read: upstream gives no mask for it either
            state = generated.state(row, ids.index(self.seg_token)) if self.seg_token in ids[:-1] else None
            if state is not None:
                rows.append(row)
                states.append(state)
        return rows, states

    # ------------------------------------------------------------------------------------------ export

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Writes the model in the published layout: LoRA merged; what is not trained is copied from the base byte for byte."""
        if self.base is None:
            raise UserError("this model was not loaded from a folder; there is no base to take tokenizer and frozen tensors from")
        merged = merged_tensors(self.network)
        trained = {name.split(".lora_")[0].removesuffix(".base_layer") for group in self._trainable.values() for name, _ in group}
        tensors = (
            (key, published_tensor(key, merged.__getitem__).to(tensor.dtype) if is_trained(key, trained) else tensor)
            for key, tensor in stored_tensors(self.base)
        )
        write_folder(folder, tensors, self.network.config.published, self.base)

    def changes(self, folder: Path) -> list[dict[str, Any]]:
        """How an export differs from the base, one row for each group; see ``export.changes``."""
        from plugins.models.sa2va import export

        if self.base is None:
            raise UserError("this model was not loaded from a folder; there is no base to compare with")
        adapted = {name.split(".lora_")[0] for name, _ in self._trainable.get("lora", [])}
        return export.changes(self.base, folder, adapted)

    def verify(self, folder: Path) -> dict[str, float]:
        """How far an export, reloaded, computes something else than this model; see ``export.verify``."""
        from plugins.models.sa2va import export

        return export.verify(self, folder)

    def save_adapter(self, folder: Path) -> None:
        """Writes the adapters alone in PEFT's layout."""
        from plugins.models.sa2va import export

        export.save_adapter(self, folder)


def group_of(name: str) -> Group:
    """The parameter group of a name in ``Network``."""
    if ".lora_" in name:
        return "lora"
    return next(group for prefix, group in _PREFIXES if name.startswith(prefix))


def is_trained(published: str, trained: set[str]) -> bool:
    """Whether a published tensor holds any of the ``trained`` parameters (names without adapter suffixes)."""
    where = place(published)
    return where is not None and any(native in trained or native.removesuffix(".weight") in trained for native in where.natives)


def merged_tensors(network: Network) -> dict[str, Tensor]:
    """Native tensors with adapters added in float32."""
    tensors = {name: tensor.detach() for name, tensor in native_tensors(network).items()}
    for name, module in network.named_modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
            key = f"{name}.weight"
            tensors[key] = tensors[key].float() + module.get_delta_weight("default").float()
    return tensors


def _add_lora(network: Network, lora: Lora) -> LoraConfig:
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, so only where it is used

    linear = {name.rsplit(".", 1)[-1] for name, module in network.llm.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"}
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=sorted(linear), bias="none")
    inject_adapter_in_model(config, network.llm)
    return config
