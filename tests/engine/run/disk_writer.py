"""A process that writes results to a disk tier and says so, to be watched or killed: FOLDER COUNT SIZE."""

from __future__ import annotations

import sys
from pathlib import Path

from engine.run.disk_tier import DiskTier
from engine.run.keys import Key
from engine.run.values import NodeValue


def key(number: int) -> Key:
    """The key of the result with this number."""
    return Key(number.to_bytes(32, "big"))


def plain_value(number: int, size: int) -> NodeValue:
    """A result that shows which it is, and needs no codec."""
    return NodeValue(((b"%08d" % number * (size // 8), number),))


def main(folder: str, count: str, size: str) -> None:
    tier = DiskTier(Path(folder), {})
    for number in range(int(count)):
        tier.put(key(number), plain_value(number, int(size)), 1.0)
        tier.flush()
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
