"""``mezzotint cache`` and ``mezzotint models``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engine.cli.screen import say
from engine.cli.workspace import open_workspace
from engine.places import Places
from engine.run.disk_tier import DiskTier


def cache_info_command(state: Path, *, as_json: bool) -> None:
    """Print how much is kept."""
    disk = _disk(state).info()
    if as_json:
        plain = {"results": disk.results, "bytes": disk.bytes, "limit": disk.limit, "by_type": dict(disk.by_type)}
        say(json.dumps(plain, indent=2), to=sys.stdout)
        return
    say(f"{disk.results} results, {disk.bytes / 2**20:.1f} MiB of at most {disk.limit / 2**20:.0f} MiB", to=sys.stdout)
    for name, size in sorted(disk.by_type.items()):
        say(f"  {name:<20} {size / 2**20:.1f} MiB", to=sys.stdout)


def cache_clear_command(state: Path) -> None:
    """Remove every kept result."""
    disk = _disk(state)
    before = disk.info()
    disk.clear()
    say(f"removed {before.results} results, {before.bytes / 2**20:.1f} MiB", to=sys.stdout)


def _disk(state: Path) -> DiskTier:
    with open_workspace(Places(state=state)) as workspace:
        return DiskTier(state / "cache", workspace.registry.codecs)


def models_convert_command(file: Path, to: Path | None) -> None:
    """Write the safetensors file and print its path."""
    target = to or file.with_suffix(".safetensors")
    with open_workspace(Places()) as workspace:
        workspace.registry.convert_model(file, target)
    say(str(target), to=sys.stdout)
