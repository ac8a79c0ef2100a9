"""Starting the processes of a run, stopping them, and what they say at their end. Importing this does not import torch."""

from __future__ import annotations

from core.engine.launch.devices import cannot_start, check_launch, device_notes, device_of
from core.engine.launch.reporting import LAUNCHER, RESUME, LostRank, print_notes, report_error, report_stop
from core.engine.launch.start import become_worker, die_with_parent, start_workers, to_start
from core.engine.launch.stopping import Stopped, listening

__all__ = [
    "LAUNCHER",
    "RESUME",
    "LostRank",
    "Stopped",
    "become_worker",
    "cannot_start",
    "check_launch",
    "device_notes",
    "device_of",
    "die_with_parent",
    "listening",
    "print_notes",
    "report_error",
    "report_stop",
    "start_workers",
    "to_start",
]
