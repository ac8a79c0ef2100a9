"""Processor time of the commands that only look: python -m benchmarks.quick_commands [--other CHECKOUT] [--repeats N]

``run --check`` of each shipped recipe, ``components explain`` of each component named here, ``components doctor`` and ``list``. Each in a
process of its own, the least of N; user and system time together, of the process and of what it started. With ``--other`` the same
commands are timed in another checkout by the same Python, in turn, and the ratio is printed.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXPLAINED = ("models/sa2va", "loops/mask_caption_mask", "samplers/st_gumbel_topk", "losses/caption_ce", "datasets/sav")


def commands() -> list[list[str]]:
    recipes = sorted(path.relative_to(ROOT) for path in (ROOT / "recipes").glob("*.yaml"))
    checks = [["core.run", str(recipe), "--check", "launch={strategy: single, processes: 1, device: cpu}"] for recipe in recipes]
    explained = [["core.components", "explain", name] for name in EXPLAINED]
    return [*checks, *explained, ["core.components", "doctor"], ["core.components", "list"]]


def seconds(command: list[str], checkout: Path) -> float:
    """Of processor time, of one command in a checkout. Raises ``CalledProcessError`` where it fails."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", *command], cwd=checkout, env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the commands that only look.")
    parser.add_argument("--other", type=Path, metavar="CHECKOUT", help="another checkout to compare with, e.g. of an earlier commit")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="the least of N counts (default 3)")
    arguments = parser.parse_args()
    print(f"{'command':<58} {'here':>7}" + (f" {'other':>7} {'ratio':>6}" if arguments.other else ""))
    for command in commands():
        here = min(seconds(command, ROOT) for _ in range(arguments.repeats))
        beside = ""
        if arguments.other:
            try:
                other = min(seconds(command, arguments.other.resolve()) for _ in range(arguments.repeats))
                beside = f" {other:6.2f}s {other / here:5.1f}x"
            except subprocess.CalledProcessError:  # an older checkout may not know a command, or a component that is installed now
                beside = "   fails"
        print(f"{' '.join(command):<58.58} {here:6.2f}s{beside}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
