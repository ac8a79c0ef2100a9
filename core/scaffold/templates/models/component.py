"""A model of one's own, grown out of the tiny one: replace its methods one after the other; the tests watch the contract."""

from __future__ import annotations

from core.testing import TinyModel


class TemplateName(TinyModel):
    """``seed``: of the first weights."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
