"""How long loading a full-size Stable Diffusion 1.5 checkpoint takes, and how much memory of its own.

    python -m benchmarks.load_checkpoint [--folder DIR] [--rounds N]

For a float32 file, and for a float16 file that runs in float32, in one run and with warm page cache:

- time of leasing all three parts over ``safetensors.torch.load_file``, a cast to float32 where one is needed, and touching
  every page; the leased weights are touched as well. Target: at most 1.3.
- peak anonymous memory while leasing over the bytes of the weights in float32. Target: at most 1.15.

Every measurement is a process of its own; the imports are done before the clock starts, and count to neither side.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.random_sd15 import CODES, Sizes, write

TIME_TARGET: Final = 1.3
MEMORY_TARGET: Final = 1.15
_PAGE_FLOATS: Final = 1024

NETWORK_MODULES: Final = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
)
"""Imported before the clock starts."""


def anonymous_bytes() -> int:
    """Private memory of this process that no file backs (Linux)."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit("expected RssAnon in /proc/self/status, found none; this benchmark needs Linux")
    return int(found[1]) * 1024


@contextmanager
def peak_memory(result: dict[str, float]) -> Iterator[None]:
    """Sets ``result["peak"]`` to the largest growth of anonymous memory while open."""
    start, highest, done = anonymous_bytes(), 0, threading.Event()

    def sample() -> None:
        nonlocal highest
        while not done.wait(0.01):
            highest = max(highest, anonymous_bytes())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        highest = max(highest, anonymous_bytes())
        done.set()
        thread.join()
        result["peak"] = highest - start


def touch(tensors: Iterable[Any]) -> None:
    """Read a number of every page."""
    for tensor in tensors:
        tensor.reshape(-1)[:: _PAGE_FLOATS * 4 // tensor.element_size()].sum()


def reference(path: Path) -> dict[str, float]:
    """The plainest way to have all weights in float32."""
    import torch
    from safetensors.torch import load_file

    start = time.perf_counter()
    tensors = {name: tensor.to(torch.float32) for name, tensor in load_file(path).items()}
    touch(tensors.values())
    return {"seconds": time.perf_counter() - start}


def import_networks() -> None:
    for module in NETWORK_MODULES:
        importlib.import_module(module)


def memory(path: Path) -> dict[str, float]:
    """The same leases, with an eye on memory; watching takes time, so this is a measurement of its own."""
    import_networks()
    result: dict[str, float] = {}
    with peak_memory(result):
        result |= ours(path)
    return result


def ours(path: Path) -> dict[str, float]:
    """Leases of all three parts."""
    import_networks()

    from engine.models import Digest, ModelRef, Part
    from nodes.diffusion.budget import Budget
    from nodes.diffusion.devices import device_policy
    from nodes.diffusion.store import LocalModelStore

    store = LocalModelStore(device_policy("cpu"), Budget(1 << 40))
    parts: tuple[Part, ...] = ("unet", "clip", "vae")
    weights = 0
    start = time.perf_counter()
    for part in parts:
        with store.lease(ModelRef(Digest("x"), part, str(path))) as model:
            touch(model.module.parameters())
            weights += sum(parameter.numel() * 4 for parameter in model.module.parameters())
    return {"seconds": time.perf_counter() - start, "weights": weights}


def measure(side: str, path: Path) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load_checkpoint", "--measure", side, str(path)]
    answer: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return answer


def compare(path: Path, rounds: int) -> bool:
    """Print both ratios of one file; whether both targets are met."""
    measure("reference", path)  # fills the page cache
    pairs = [(measure("ours", path), measure("reference", path)) for _ in range(rounds)]
    mine = statistics.median(our["seconds"] for our, _ in pairs)
    plain = statistics.median(other["seconds"] for _, other in pairs)
    watched = measure("memory", path)
    share = watched["peak"] / watched["weights"]
    print(f"{path.stem}: {mine:.2f} s over {plain:.2f} s = {mine / plain:.2f} (target {TIME_TARGET})")
    print(f"{path.stem}: peak anonymous memory over weights in float32 = {share:.3f} (target {MEMORY_TARGET})")
    return mine / plain <= TIME_TARGET and share <= MEMORY_TARGET


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files of 2.1 and 4.3 GB are put while it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        side, path = arguments.measure
        print(json.dumps({"ours": ours, "memory": memory, "reference": reference}[side](Path(path))))
        return 0
    met = True
    for dtype in CODES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            path = Path(folder) / f"sd15-{dtype}.safetensors"
            write(path, Sizes(), dtype)
            met &= compare(path, arguments.rounds)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
