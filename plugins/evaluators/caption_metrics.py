"""CIDEr, BLEU, ROUGE-L and METEOR of generated captions: the COCO caption code's own arithmetic, from ``pycocoevalcap``.

BLEU is corpus BLEU with the closest reference length. CIDEr (CIDEr-D, 0..10) takes its document frequencies from the
references of the set that is measured. ROUGE-L is the mean F-measure with beta 1.2. Only METEOR needs Java.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from core.contracts import UserError

Metric = Literal["CIDEr", "BLEU", "ROUGE-L", "METEOR"]
ORDERS = (1, 2, 3, 4)  # of BLEU
_TINY, _SMALL = 1e-15, 1e-9  # the COCO code's own, against division by zero
_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))\b")
_WORD = re.compile(
    r"n't(?!\w)|'(?:s|m|d|re|ve|ll)(?!\w)"  # the second half of a contraction
    r"|(?:[^\W_]\.){2,}|\d+(?:[.,:/]\d+)+"  # a.m., 3.5, 10:30
    r"|\w+(?:[-'/]\w+)*|-[lr][rs]b-|[$%&#@*+=|~^<>\\/]"
)
_BRACKETS = str.maketrans({"(": " -lrb- ", ")": " -rrb- ", "[": " -lsb- ", "]": " -rsb- "})  # the COCO code leaves these names in


def words(text: str) -> str:
    """Lower-case words joined by spaces, without punctuation: what the COCO code's Java tokenizer gives, for common English."""
    lower = text.lower().replace("’", "'").replace("cannot", "can not").translate(_BRACKETS)
    return " ".join(_WORD.findall(_CONTRACTION.sub(r" \1", lower)))


def overlap(text: str, reference: str) -> float:
    """F1 of the words of two texts, each counted as often as it is said; 1 where both have none."""
    said, true = (Counter(words(one).split()) for one in (text, reference))
    both = said.total() + true.total()
    return 2 * (said & true).total() / both if both else 1.0


def check(wanted: Sequence[Metric]) -> None:
    """Raises ``UserError`` where a wanted metric cannot be computed on this machine."""
    if wanted:
        try:
            import pycocoevalcap.cider.cider_scorer  # noqa: F401  late: an extra
        except ImportError as error:
            how = 'pip install "dualloop[caption]", or set text_metrics=[]'
            raise UserError(f"{', '.join(wanted)} need the package pycocoevalcap ({error}): {how}") from error
    if "METEOR" in wanted and shutil.which("java") is None:
        raise UserError(
            "METEOR runs in Java, and there is no java on the PATH: install a Java runtime, or leave METEOR out of text_metrics"
        )


def tally(texts: Sequence[str], references: Sequence[Sequence[str]], wanted: Sequence[Metric]) -> dict[str, np.ndarray]:
    """[n] each: what every caption adds, CIDEr with the document frequencies of all references here."""
    if not wanted:
        return {}
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
    from pycocoevalcap.cider.cider_scorer import CiderScorer
    from pycocoevalcap.rouge.rouge import Rouge

    said, true = [words(text) for text in texts], [[words(text) for text in each] for each in references]
    sums: dict[str, np.ndarray] = {}
    if "CIDEr" in wanted:
        scorer = CiderScorer()
        for text, each in zip(said, true, strict=True):
            scorer += (text, each)
        sums["CIDEr"] = np.asarray(scorer.compute_score()[1], dtype=np.float64)
    if "BLEU" in wanted:
        counts = [cook_test(text, cook_refs(each), eff="closest") for text, each in zip(said, true, strict=True)]
        for order in ORDERS:
            sums[f"correct {order}"] = np.array([count["correct"][order - 1] for count in counts], dtype=np.float64)
            sums[f"guess {order}"] = np.array([count["guess"][order - 1] for count in counts], dtype=np.float64)
        sums["said length"] = np.array([count["testlen"] for count in counts], dtype=np.float64)
        sums["true length"] = np.array([count["reflen"] for count in counts], dtype=np.float64)
    if "ROUGE-L" in wanted:
        rouge = Rouge()
        sums["ROUGE-L"] = np.array([rouge.calc_score([text], each) for text, each in zip(said, true, strict=True)], dtype=np.float64)
    return sums


def metrics(sums: Mapping[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
    """CIDEr, BLEU-1..4 and ROUGE-L of the tally's sums over ``n`` captions, as far as they are there."""
    found = {}
    if "CIDEr" in sums:
        found["CIDEr"] = sums["CIDEr"] / n
    if "said length" in sums:
        ratio = (sums["said length"] + _TINY) / (sums["true length"] + _SMALL)
        brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
        product = np.ones_like(ratio)
        for order in ORDERS:
            product = product * (sums[f"correct {order}"] + _TINY) / (sums[f"guess {order}"] + _SMALL)
            found[f"BLEU-{order}"] = product ** (1 / order) * brevity
    if "ROUGE-L" in sums:
        found["ROUGE-L"] = sums["ROUGE-L"] / n
    return found


def meteor(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 of the whole set, by its authors' Java program."""
    from pycocoevalcap.meteor.meteor import Meteor

    said = {number: [words(text)] for number, text in enumerate(texts)}
    true = {number: [words(text) for text in each] for number, each in enumerate(references)}
    return float(Meteor().compute_score(true, said)[0])
