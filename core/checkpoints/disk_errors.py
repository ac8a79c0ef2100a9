"""Whether an error is the disk's: full, over its quota, or read-only."""

from __future__ import annotations

import errno
import os


def disk_fault(error: Exception) -> bool:
    """Looks for the system's error text, since some libraries (safetensors) pass the text on without the error number."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))
