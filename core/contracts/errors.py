"""The two errors that a component raises on purpose."""

from __future__ import annotations


class BadSample(Exception):
    """One sample cannot be used. The engine counts it by source and reason and draws the next one.

    ``reason`` is a short, constant phrase (it is a counter's name); ``sample`` is the stable id; ``detail`` says more.
    """

    def __init__(self, reason: str, sample: str, detail: str = "") -> None:
        super().__init__(f"{sample}: {reason}" + (f" ({detail})" if detail else ""))
        self.reason, self.sample, self.detail = reason, sample, detail

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str, str]]:  # survives the trip from a loader's worker
        return type(self), (self.reason, self.sample, self.detail)


class UserError(Exception):
    """Something the user can put right. Shown as one sentence without a traceback; the command exits with 2."""
