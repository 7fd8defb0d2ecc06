"""The service's settings, of the command line, the environment and a TOML file, in this order of precedence.

    [service]    host, port, token_file, allow_origin, trusted_proxy, log_format, log_level
    [places]     models, input, output, temp, state, extra_model_paths, custom_nodes, installed_packs
    [device]     device, devices, dtype, vram_budget, noise_device, checkpoint_seconds
    [limits]     max_body, max_pixels, max_nodes, max_queue, max_sockets
    [patience]   node_timeout, grace, lease, shutdown
    [retention]  keep_jobs, keep_days

Relative paths are taken from where the process was started, in the file too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.errors import UsageError
from engine.graph.text import listed, nearest, shown
from engine.places import Places
from engine.run.settings import DeviceSettings
from engine.service.config_keys import KEYS, TABLES, Unfit
from engine.service.settings import Patience, Retention, ServiceLimits, ServiceSettings

PREFIX: Final = "MEZZOTINT_"
CONFIG: Final = "MEZZOTINT_CONFIG"
_NO_KEYS: Final = frozenset({CONFIG, "MEZZOTINT_SERVER", "MEZZOTINT_TOKEN"})
"""The last two are for clients."""

# where a key's value goes, and by which name
_PARTS: Final[Mapping[str, Mapping[str, str]]] = {
    "service": {
        "host": "host", "port": "port", "token_file": "token_file", "allow_origin": "allow_origins",
        "trusted_proxy": "trusted_proxies", "log_format": "log_format", "log_level": "log_level", "devices": "devices",
    },
    "places": {name: name for name, key in KEYS.items() if key.table == "places"},
    "device": {name: name for name, key in KEYS.items() if key.table == "device" and name != "devices"},
    "limits": {name: name.removeprefix("max_") for name, key in KEYS.items() if key.table == "limits"},
    "patience": {"node_timeout": "node", "grace": "grace", "lease": "lease", "shutdown": "shutdown"},
    "retention": {"keep_jobs": "count", "keep_days": "days"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """Values of one place, by key. ``spelled`` is how that place names a key."""

    values: Mapping[str, Any]
    spelled: Callable[[str], str]


def read_settings(given: Mapping[str, Any], environment: Mapping[str, str], config: Path | None) -> ServiceSettings:
    """The settings of a service. ``given`` holds the command line's values by key: None, and an empty list, are not given.

    ``config``, else ``MEZZOTINT_CONFIG``, names the file. Raises ``UsageError`` for a file that cannot be read, and for any key there is
    not and any value that is not of its key's kind, wherever it stands and whether or not another place overrides it.
    """
    file = config if config is not None else _config_of(environment)
    layers = [given_layer(given), environment_layer(environment)]
    if file is not None:
        layers.append(file_layer(_document(file), file))
    return settings_of(layers)


def settings_of(layers: Iterable[Layer]) -> ServiceSettings:
    """The settings of layers, the first of which counts most."""
    values: dict[str, Any] = {}
    for layer in layers:
        values = _read(layer) | values
    parts = {
        part: {field: values[key] for key, field in names.items() if key in values} for part, names in _PARTS.items()
    }
    return ServiceSettings(
        **parts["service"],
        places=Places(**parts["places"]),
        device=DeviceSettings(**parts["device"]),
        limits=ServiceLimits(**parts["limits"]),
        patience=Patience(**parts["patience"]),
        retention=Retention(**parts["retention"]),
    )


def _read(layer: Layer) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in layer.values.items():
        try:
            values[name] = KEYS[name].read(value)
        except Unfit as wanted:
            raise UsageError(f"{layer.spelled(name)}: expected {wanted}, found {shown(value)}") from None
    return values


# the three places


def given_layer(given: Mapping[str, Any]) -> Layer:
    """What the command line gave."""

    def spelled(name: str) -> str:
        return "--" + name.replace("_", "-")

    unknown = [name for name in given if name not in KEYS]
    if unknown:
        raise UsageError(
            f"{spelled(unknown[0])}: expected an option of the service; {_hint(unknown[0], KEYS, spelled)}"
        )
    # an option that may be repeated comes as an empty list where it was not given at all
    return Layer({name: value for name, value in given.items() if value is not None and value not in ([], ())}, spelled)


def environment_layer(environment: Mapping[str, str]) -> Layer:
    """What the environment's variables say; an empty one says nothing."""

    def spelled(name: str) -> str:
        return PREFIX + name.upper()

    named = {
        name: text for name, text in environment.items() if name.startswith(PREFIX) and name not in _NO_KEYS and text
    }
    known = {spelled(name): name for name in KEYS}
    for name in named:
        if name not in known:
            raise UsageError(f"{name}: expected a variable of the service; {_hint(name, known, str)}")
    return Layer({known[name]: text for name, text in named.items()}, spelled)


def file_layer(document: Mapping[str, Any], file: Path) -> Layer:
    """What a TOML file says, read already."""

    def spelled(name: str) -> str:
        return f"{file}, {KEYS[name].table}.{name}"

    values: dict[str, Any] = {}
    for table, content in document.items():
        if table not in TABLES:
            raise UsageError(f"{file}, {shown(table)}: expected one of the tables {listed(TABLES)}; {_stray(table)}")
        if not isinstance(content, Mapping):
            raise UsageError(f"{file}, {table}: expected a table, [{table}], found {shown(content)}")
        own = [name for name, key in KEYS.items() if key.table == table]
        for name, value in content.items():
            if name not in own:
                hint = _stray(name) if name in KEYS else _hint(name, own, str)
                raise UsageError(f"{file}, {table}.{shown(name)}: expected a key of [{table}]; {hint}")
            if isinstance(value, str) and KEYS[name].separator:
                raise UsageError(f"{spelled(name)}: expected a list, [{shown(value)}], found {shown(value)}")
            if isinstance(value, str) and not isinstance(_default(name), str | Path | None):
                raise UsageError(f"{spelled(name)}: expected {_kind(name)} without quotes, found {shown(value)}")
            values[name] = value
    return Layer(values, spelled)


def _stray(name: str) -> str:
    if name in KEYS:
        return f"{name} belongs in [{KEYS[name].table}]"
    return _hint(name, TABLES, "[{}]".format)


def _default(name: str) -> Any:
    """The value of a key that nobody sets."""
    settings = ServiceSettings()
    part = next(part for part, names in _PARTS.items() if name in names)
    holder = settings if part == "service" else getattr(settings, part)
    return getattr(holder, _PARTS[part][name])


def _kind(name: str) -> str:
    default = _default(name)
    return "true or false" if isinstance(default, bool) else "a number"


def _hint(name: str, names: Iterable[str], spelled: Callable[[str], str]) -> str:
    there = list(names)
    near = nearest(name, there)
    return f"did you mean {spelled(near)}?" if near else f"there are {listed([spelled(item) for item in there], 40)}"


def _config_of(environment: Mapping[str, str]) -> Path | None:
    named = environment.get(CONFIG)
    return Path(named).expanduser() if named else None


def _document(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            return tomllib.load(opened)
    except OSError as error:
        raise UsageError(f"expected the settings in {file}, could not read it: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected TOML in {file}, found something else: {error}") from error
