"""The texts around pictures, regions and phrases. Published checkpoints were trained on exactly these strings.

One code path makes training and inference prompts. The turn formats are those that a checkpoint's config names.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.contracts import UserError

REGION_START, REGION_END, SEG = "<vp>", "</vp>", "[SEG]"


@dataclass(frozen=True)
class Marks:
    """How a backend's prompts spell a picture: ``start``, as many ``token`` as it has, ``end``; and ``joint`` between two pictures."""

    start: str
    token: str
    end: str
    joint: str = "\n"
    chat: bool = False  # whether upstream's inference writes its questions with the checkpoint's chat template


INTERNVL = Marks("<img>", "<IMG_CONTEXT>", "</img>")
QWEN_VL = Marks("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", chat=True)

DESCRIBE = "Please generate a detailed description for the given image region."
#: (before the phrase, after it); the first is the one evaluation always uses. The phrase brings its own leading space.
SEGMENT = [
    ("Please segment", " in this image."),
    ("Can you segment", " in this image?"),
    ("Please segment", " in the picture."),
    ("Can you please segment", " in this image?"),
    ("What is", " in this image? Please respond with segmentation mask."),
]
ANSWERS = ["Sure, it is [SEG].", "It is [SEG].", "Sure, [SEG].", "Sure, the segmentation result is [SEG].", "[SEG]."]


@dataclass(frozen=True)
class TurnFormat:
    """One question and its answer: the text before the question, between the two, and after the answer."""

    before: str
    between: str
    end: str  # ends the answer; generation stops at it
    marks: Marks = INTERNVL

    @property
    def special(self) -> tuple[str, ...]:
        """Each must be one token of a checkpoint's tokenizer."""
        return self.marks.start, self.marks.token, self.marks.end, REGION_START, REGION_END, SEG


TURN_FORMATS = {
    "phi3_chat": TurnFormat("<|user|>\n", "<|end|>\n<|assistant|>\n", "<|end|>"),
    "internlm2_chat": TurnFormat("<s><|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "qwen_chat": TurnFormat("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
}


def turn_format(name: str) -> TurnFormat:
    """The turn format a checkpoint's config names; some spell it with hyphens, which upstream takes, too."""
    if name.replace("-", "_") not in TURN_FORMATS:
        raise UserError(f"config.json: template {name!r} is not supported; known turn formats are {', '.join(TURN_FORMATS)}")
    return TURN_FORMATS[name.replace("-", "_")]


def region_text(cells: list[int], token: str) -> str:
    """The list of regions with ``cells[i]`` times ``token`` each; an empty list is allowed.

    Training writes one newline after it, upstream's inference two: the question follows directly here, as in training.
    """
    regions = ", ".join(f"region{i + 1}{REGION_START}{token * count}{REGION_END}" for i, count in enumerate(cells))
    return f"\nThere are {len(cells)} part regions in the picture: {regions}.\n"


def question_turn(turn: TurnFormat, pictures: list[int], question: str, cells: list[int] | None, newlines: int = 1) -> str:
    """The whole prompt of a question about pictures (a video's frames) of ``pictures[i]`` image tokens each.

    Regions have ``cells[i]`` grid cells; None: there is no region list. ``newlines`` stand between the list and the
    question: 1 as in training, 2 as upstream's inference writes. A question that begins with ``<image>`` brings its own newline,
    or none; before others there is one.
    """
    marks, placed = turn.marks, question.removeprefix("<image>")
    images = marks.joint.join(marks.start + marks.token * count + marks.end for count in pictures)
    newline = "" if question.startswith("<image>") and not placed.startswith("\n") else "\n"
    between = newline if cells is None else region_text(cells, marks.token) + "\n" * (newlines - 1)
    return turn.before + images + between + placed.lstrip("\n") + turn.between


def describe_turn(turn: TurnFormat, image_tokens: int, cells: int | None) -> str:
    """The whole prompt for the description of one region of ``cells`` grid cells; None: the region list is empty."""
    return question_turn(turn, [image_tokens], DESCRIBE, [] if cells is None else [cells])


def segment_turn(turn: TurnFormat, image_tokens: int, before: str, after: str) -> tuple[str, str]:
    """The prompt for segmentation, cut where the phrase (with its leading space) goes."""
    return question_turn(turn, [image_tokens], before, None).removesuffix(turn.between), after + turn.between
