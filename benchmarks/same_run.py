"""Whether two checkouts train the same to the last bit: python -m benchmarks.same_run --other CHECKOUT [key=value ...]

Runs recipes/dual_loop_tiny.yaml for a few updates in both, by the same Python and on the same data, and compares every tensor of the last
checkpoint (trained weights, optimizer, teacher), and every number of metrics.jsonl but times and memory. Exit code 1: they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "train.updates=6",
    "train.evaluate=none",
    "checkpoint={every: 3, keep: 1, export: false}",
    "track={wandb: null, tensorboard: null}",
    "loops.loop1.tasks.pseudo.caption_length=8",
)


def run(checkout: Path, output: Path, settings: list[str]) -> Path:
    """Trains in a checkout; returns the run folder. Raises ``CalledProcessError`` where that fails."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "core.run", "recipes/dual_loop_tiny.yaml", *SETTINGS, *settings, f"output={output}", "--quiet"]
    subprocess.run(command, cwd=checkout, env=environment, check=True)
    return next(output.iterdir())


def differences(here: Path, other: Path) -> tuple[int, list[str]]:
    """(how many tensors and numbers were compared, the names of those that differ or that one of them lacks)."""
    compared, different = 0, []
    mine, theirs = (sorted(folder.glob("checkpoints/*/*.safetensors")) for folder in (here, other))
    if [file.name for file in mine] != [file.name for file in theirs]:
        different.append(f"files {[file.name for file in mine]} and {[file.name for file in theirs]}")
    for one, another in zip(mine, theirs, strict=False):
        a, b = load_file(one), load_file(another)
        compared += len(a)
        different += [
            f"{one.name}: {n}" for n in sorted(a.keys() | b.keys()) if n not in a or n not in b or a[n].tobytes() != b[n].tobytes()
        ]
    for line, (one, another) in enumerate(zip(_lines(here), _lines(other), strict=True), start=1):
        compared += len(one)
        different += [f"update {line}: {name}" for name in sorted(one.keys() | another.keys()) if one.get(name) != another.get(name)]
    return compared, different


def _lines(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(("time", "memory"))} for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the training of two checkouts bit for bit.")
    parser.add_argument("--other", type=Path, required=True, metavar="CHECKOUT", help="another checkout, e.g. of an earlier commit")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the recipe, in both, such as data.world=FOLDER")
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            run(checkout, Path(folder) / name, arguments.settings) for name, checkout in (("a", ROOT), ("b", arguments.other.resolve()))
        ]
        compared, different = differences(*runs)
    print(f"{compared} tensors and numbers compared, {len(different)} differ" + "".join(f"\n  {name}" for name in different[:20]))
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
