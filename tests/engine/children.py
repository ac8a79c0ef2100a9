"""Child processes that are forked from one that has imported everything: to import it costs each of them ten times their work."""

from __future__ import annotations

import multiprocessing

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["core.engine.runner", "plugins.models.sa2va.published.load", "peft"])
