"""Whether an error is the disk's: full, over its quota, or read-only."""

from __future__ import annotations

import errno
import os


def disk_fault(error: Exception) -> bool:
    """Looks for the system's words, since some libraries (safetensors) hand these on without the number."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))
