"""What ``components new`` writes: an installable package with one component, or one more component in a package."""

from core.scaffold.existing import Added, add
from core.scaffold.package import DOORS, Body, contents, rendered, write

__all__ = ["DOORS", "Added", "Body", "add", "contents", "rendered", "write"]
