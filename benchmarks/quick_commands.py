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
    checkouts = [ROOT, *([arguments.other.resolve()] if arguments.other else [])]
    print(f"{'command':<58} {'here':>7}" + (f" {'other':>7} {'ratio':>6}" if arguments.other else ""))
    for command in commands():
        least = [min(seconds(command, checkout) for _ in range(arguments.repeats)) for checkout in checkouts]
        ratio = f" {least[1]:6.2f}s {least[1] / least[0]:5.1f}x" if arguments.other else ""
        print(f"{' '.join(command):<58} {least[0]:6.2f}s{ratio}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
