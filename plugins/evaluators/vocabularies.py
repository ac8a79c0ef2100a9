"""Right words: of each vocabulary that a recipe lists, whether a caption says what its reference says of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from plugins.evaluators.caption_metrics import words

Phrases = dict[tuple[str, ...], str]  # the words of an entry -> the entry


class Vocabularies:
    """For example ``{colour: [red, light blue], position: [left, right]}``; an entry is one word or several, in lower or upper case.

    Of an entry within another (blue, light blue) the longer one is said. Raises ``ValueError`` for an empty vocabulary, for an entry
    without a word and for one that is listed twice.
    """

    def __init__(self, listed: Mapping[str, Sequence[str]]) -> None:
        self.phrases: dict[str, Phrases] = {}
        for name, entries in listed.items():
            if not entries:
                raise ValueError(f"words.{name} lists no word.")
            self.phrases[name] = {}
            for entry in entries:
                key = tuple(words(entry).split())
                if not key:
                    raise ValueError(f"words.{name}: {entry!r} has no word in it.")
                if key in self.phrases[name]:
                    raise ValueError(f"words.{name} lists {entry!r} twice.")
                self.phrases[name][key] = entry

    def said(self, name: str, text: str) -> frozenset[str]:
        """The entries of vocabulary ``name`` that a text says."""
        phrases, spoken = self.phrases[name], words(text).split()
        longest, found, place = max(map(len, phrases)), set(), 0
        while place < len(spoken):
            for length in range(longest, 0, -1):
                if (entry := phrases.get(tuple(spoken[place : place + length]))) is not None:
                    found.add(entry)
                    place += length - 1
                    break
            place += 1
        return frozenset(found)

    def tally(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        """[n] each: which captions have a reference that says something of a vocabulary, and which of them say just the same.

        Warns of a vocabulary of which no reference says anything.
        """
        sums = {}
        for name in self.phrases:
            true = [[said for text in each if (said := self.said(name, text))] for each in references]
            if not any(true):
                warnings.warn(f"words.{name}: no caption of the data set says one of its words; it is left out", stacklevel=2)
            right = [self.said(name, text) in each for text, each in zip(texts, true, strict=True)]
            sums[f"words {name}"] = np.array([bool(each) for each in true], dtype=np.float64)
            sums[f"right words {name}"] = np.array(right, dtype=np.float64)
        return sums

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``words/NAME``, the share of right ones among the captions whose reference says something of the vocabulary."""
        named = [name for name in self.phrases if sums[f"words {name}"].any()]
        return {f"words/{name}": sums[f"right words {name}"] / sums[f"words {name}"] for name in named}
