"""How long the command line takes before it can do anything, as whole processes.

    python -m benchmarks.startup [--rounds N]

Targets: ``import engine`` at most 0.25 s; ``mezzotint validate`` on a 20-node file at most 0.5 s. Each is printed beside, and as a ratio
of, an empty Python process of the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def twenty_nodes() -> dict[str, Any]:
    """A workflow of 20 nodes: a picture, inverted again and again, and saved."""
    nodes: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}
    }
    for number in range(2, 20):
        nodes[str(number)] = {"class_type": "ImageInvert", "inputs": {"image": [str(number - 1), 0]}}
    nodes["20"] = {"class_type": "SaveImage", "inputs": {"images": ["19", 0], "filename_prefix": "x"}}
    return nodes


def median_seconds(command: Sequence[str], rounds: int) -> float:
    """The median wall time of ``command``."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "twenty.json"
        file.write_text(json.dumps(twenty_nodes()))
        command = [sys.executable, "-c", "from engine.cli import main; main()", "validate", str(file)]
        empty = median_seconds([sys.executable, "-c", "pass"], rounds)
        for name, seconds, target in (
            ("import engine", median_seconds([sys.executable, "-c", "import engine"], rounds), 0.25),
            ("validate, 20 nodes", median_seconds(command, rounds), 0.5),
        ):
            print(
                f"{name}: {seconds:.3f} s (target {target} s), {seconds / empty:.1f} times an empty process ({empty:.3f} s)"
            )


if __name__ == "__main__":
    main()
