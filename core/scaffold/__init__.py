"""What ``components new`` writes: an installable package with one component."""

from core.scaffold.package import PLURAL, SINGULAR, Body, contents, write

__all__ = ["PLURAL", "SINGULAR", "Body", "contents", "write"]
