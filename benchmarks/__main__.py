"""Every benchmark, one after the other: ``python -m benchmarks``. Each can be run alone, and says there what it measures."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("startup", "chain", "dynamic", "sampling", "load_checkpoint", "service")


def main() -> int:
    failed = []
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"did not finish: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
