"""What ``components new`` writes: an installable package with one component."""

from core.scaffold.package import Body, contents, rendered, write

__all__ = ["Body", "contents", "rendered", "write"]
