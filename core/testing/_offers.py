"""The check that all kits share: what a component offers beyond its contract is declared whole and spelt right."""

from __future__ import annotations

from core.registry.offers import faults


def check_offers(component: object, kind: str) -> None:
    """Fails with a sentence for each offer that the engine would pass over (``core.contracts.optional``)."""
    found = list(faults(component, kind))
    assert not found, "; ".join(found)
