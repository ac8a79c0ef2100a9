"""Names of components -> the components: found, imported, described, examined."""

from core.registry.registry import (
    GROUP,
    AmbiguousName,
    BrokenPlugin,
    Component,
    ContractViolation,
    Entry,
    Registry,
    UnknownName,
    is_local,
    local_path,
)

__all__ = [
    "GROUP",
    "AmbiguousName",
    "BrokenPlugin",
    "Component",
    "ContractViolation",
    "Entry",
    "Registry",
    "UnknownName",
    "is_local",
    "local_path",
]
