"""Builds the executor of a process over its folders."""

from __future__ import annotations

from engine.fileref import Files
from engine.numerics import device_kind, numerics_tag, precision
from engine.places import Places
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.checkpoint import CheckpointStore
from engine.run.disk_tier import DiskTier
from engine.run.executor import Executor
from engine.run.last_runs import LastRuns
from engine.run.outputs import OutputFolder
from engine.run.settings import DeviceSettings


def open_cache(places: Places, registry: Registry) -> OutputCache:
    """The results kept in memory and below the state folder."""
    return OutputCache(disk=DiskTier(places.state / "cache", registry.codecs))


def open_last_runs(places: Places) -> LastRuns:
    """What earlier runs computed from what."""
    return LastRuns(places.state / "last_runs")


def open_executor(places: Places, registry: Registry, files: Files, settings: DeviceSettings) -> Executor:
    """An executor over the cache and the folders of ``places``. No torch yet: that comes with the first node that needs it."""
    return Executor(
        registry,
        files=files,
        cache=open_cache(places, registry),
        outputs=OutputFolder(places.output, places.temp),
        numerics=numerics(settings),
        settings=settings,
        checkpoints=CheckpointStore(places.state / "checkpoints"),
        last_runs=open_last_runs(places),
    )


def numerics(settings: DeviceSettings) -> str:
    """What the last bits of every result of a process depend on."""
    return numerics_tag(device_kind(settings.device), precision(settings.dtype))
