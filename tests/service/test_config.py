"""The service's settings: where they come from, which counts most, and what is said of a wrong one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UsageError
from engine.places import Places
from engine.run.settings import DeviceSettings
from engine.service.config import read_settings
from engine.service.config_keys import KEYS, TABLES
from engine.service.settings import Patience, Retention, ServiceLimits, ServiceSettings

EVERYTHING = """
[service]
host = "0.0.0.0"
port = 0
token_file = "t"
allow_origin = ["https://a.example", "http://127.0.0.1:3000"]
trusted_proxy = ["127.0.0.1", "10.0.0.0/24"]
log_format = "json"
log_level = "debug"
[places]
models = ["m", "n"]
input = "i"
output = "o"
temp = "/t"
state = "s"
extra_model_paths = "e.yaml"
custom_nodes = ["c"]
installed_packs = true
[device]
device = "cuda:1"
devices = ["cuda:2", "cuda:3"]
dtype = "float16"
vram_budget = "80%"
noise_device = "cpu"
checkpoint_seconds = 5
[limits]
max_body = 1
max_pixels = 2
max_nodes = 3
max_queue = 4
max_sockets = 5
[patience]
node_timeout = 1.5
grace = 0
lease = 3
shutdown = 4
[retention]
keep_jobs = 0
keep_days = 0.5
"""
READ = ServiceSettings(
    host="0.0.0.0",
    port=0,
    places=Places(
        models=(Path("m"), Path("n")),
        input=Path("i"),
        output=Path("o"),
        temp=Path("/t"),
        state=Path("s"),
        extra_model_paths=Path("e.yaml"),
        custom_nodes=(Path("c"),),
        installed_packs=True,
    ),
    device=DeviceSettings(
        device="cuda:1", dtype="float16", vram_budget="80%", noise_device="cpu", checkpoint_seconds=5.0
    ),
    devices=("cuda:2", "cuda:3"),
    token_file=Path("t"),
    allow_origins=("https://a.example", "http://127.0.0.1:3000"),
    trusted_proxies=("127.0.0.1/32", "10.0.0.0/24"),
    limits=ServiceLimits(body=1, pixels=2, nodes=3, queue=4, sockets=5),
    patience=Patience(node=1.5, grace=0.0, lease=3.0, shutdown=4.0),
    retention=Retention(count=0, days=0.5),
    log_format="json",
    log_level="debug",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "service.toml"


def of_file(file: Path, text: str, **given: Any) -> ServiceSettings:
    file.write_text(text, encoding="utf-8")
    return read_settings(given, {}, file)


def test_nothing_given_is_the_defaults() -> None:
    """Options that were not given are None, or empty where they may be repeated."""
    assert read_settings({}, {}, None) == ServiceSettings()
    assert read_settings({"host": None, "models": [], "custom_nodes": ()}, {"PATH": "/bin"}, None) == ServiceSettings()


def test_a_file_sets_everything(file: Path) -> None:
    """Every key there is, each in its table."""
    assert of_file(file, EVERYTHING) == READ
    assert all(f"{name} = " in EVERYTHING for name in KEYS)
    assert all(f"[{name}]" in EVERYTHING for name in TABLES)


def test_the_environment_sets_everything() -> None:
    """Lists of folders are parted as the system parts them, devices and origins by commas."""
    said = {
        "host": "0.0.0.0", "port": "0", "token_file": "t", "allow_origin": "https://a.example, http://127.0.0.1:3000",
        "trusted_proxy": "127.0.0.1,10.0.0.0/24", "log_format": "json",
        "log_level": "debug", "models": f"m{os.pathsep}n", "input": "i", "output": "o", "temp": "/t",
        "state": "s", "extra_model_paths": "e.yaml", "custom_nodes": "c", "installed_packs": "yes", "device": "cuda:1",
        "devices": "cuda:2,cuda:3", "dtype": "float16", "vram_budget": "80%", "noise_device": "cpu",
        "checkpoint_seconds": "5", "max_body": "1", "max_pixels": "2", "max_nodes": "3", "max_queue": "4",
        "max_sockets": "5", "node_timeout": "1.5", "grace": "0", "lease": "3", "shutdown": "4", "keep_jobs": "0",
        "keep_days": "0.5",
    }  # fmt: skip
    assert said.keys() == KEYS.keys()
    assert read_settings({}, {f"MEZZOTINT_{name.upper()}": text for name, text in said.items()}, None) == READ


def test_options_are_taken_as_a_command_line_gives_them() -> None:
    """As text or as values, in lists or parted by commas."""
    given = {
        "models": [Path("m")], "custom_nodes": ["a", "b"], "state": "s", "port": 9000, "installed_packs": True,
        "allow_origin": ["https://a.example"], "devices": "cuda:0,cuda:1", "vram_budget": "4GB", "grace": 2,
    }  # fmt: skip
    settings = read_settings(given, {}, None)
    assert settings.places == Places(
        models=(Path("m"),), custom_nodes=(Path("a"), Path("b")), state=Path("s"), installed_packs=True
    )
    assert (settings.port, settings.devices, settings.allow_origins) == (
        9000,
        ("cuda:0", "cuda:1"),
        ("https://a.example",),
    )
    assert (settings.device.vram_budget, settings.patience.grace) == ("4GB", 2.0)


def test_the_command_line_counts_most_then_the_environment(file: Path) -> None:
    """Key by key: what one place does not say, the next does. An empty variable says nothing; a false option does."""
    file.write_text('[service]\nport = 1\nhost = "a"\nlog_level = "error"\n[places]\ninstalled_packs = true\n')
    environment = {"MEZZOTINT_PORT": "2", "MEZZOTINT_HOST": "b", "MEZZOTINT_LOG_LEVEL": ""}
    settings = read_settings({"port": 3, "host": None, "installed_packs": False}, environment, file)
    assert (settings.port, settings.host, settings.log_level) == (3, "b", "error")
    assert settings.places.installed_packs is False


def test_the_environment_may_name_the_file(file: Path, tmp_path: Path) -> None:
    """An option that names one counts more."""
    file.write_text("[service]\nport = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[service]\nport = 2\n")
    assert read_settings({}, {"MEZZOTINT_CONFIG": str(file)}, None).port == 1
    assert read_settings({}, {"MEZZOTINT_CONFIG": str(file)}, other).port == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[service]\nprot = 1", r'service\."prot": expected a key of \[service\]; did you mean port\?'),
        ("[servise]\nport = 1", r'"servise": expected one of the tables service, .*; did you mean \[service\]\?'),
        ("[service]\nmodels = []", r'service\."models": expected a key of \[service\]; models belongs in \[places\]'),
        ("port = 1", r'"port": expected one of the tables .*; port belongs in \[service\]'),
        ("service = 1", r"service: expected a table, \[service\], found 1"),
        ("[limits]\nzzzzzz = 1", r"there are max_body, max_pixels, max_nodes, max_queue, max_sockets"),
        ('[service]\nport = "8188"', r'service\.port: expected a number without quotes, found "8188"'),
        ("[service]\nport = 70000", r"service\.port: expected a whole number from 0 to 65535, found 70000"),
        ("[service]\nport = 1.5", r"expected a whole number from 0 to 65535, found 1\.5"),
        ("[service]\nport = true", r"expected a whole number from 0 to 65535, found true"),
        ("[service]\nhost = 1", r"service\.host: expected text of one line, found 1"),
        ('[service]\nhost = "a\\r\\nb"', r"expected text of one line"),
        ('[service]\nlog_format = "xml"', r'expected one of text, json, found "xml"'),
        ('[service]\nallow_origin = ["*"]', r"service\.allow_origin: expected origins such as https://example\.com"),
        ('[service]\nallow_origin = ["null"]', r"expected origins such as"),
        ('[service]\ntrusted_proxy = ["*"]', r"service\.trusted_proxy: expected addresses such as 10\.0\.0\.2"),
        ('[service]\ntrusted_proxy = ["10.0.0.2/8"]', r"or networks such as 10\.0\.0\.0/24"),
        ('[places]\nmodels = "m"', r'places\.models: expected a list, \["m"\], found "m"'),
        ("[places]\nmodels = [1]", r"places\.models: expected a path, found \[1\]"),
        ("[places]\ninstalled_packs = 1", r"expected true or false, found 1"),
        ('[places]\ninstalled_packs = "true"', r"expected true or false without quotes"),
        ('[device]\nvram_budget = "lots"', r"device\.vram_budget: expected a memory budget such as 4GB or 80%"),
        ('[device]\nnoise_device = "cuda"', r'expected "cpu", found "cuda"'),
        ("[patience]\nlease = 0", r"patience\.lease: expected a number above 0, found 0"),
        ("[patience]\ngrace = nan", r"expected a number, 0 or more"),
        ("[patience]\ngrace = -1", r"expected a number, 0 or more, found -1"),
        ("[retention]\nkeep_days = 2024-01-01", r"expected a number, 0 or more, found a date"),
        ("[service", r"expected TOML in .*service\.toml, found something else"),
    ],
)
def test_a_mistake_in_the_file_is_named(file: Path, text: str, said: str) -> None:
    """The file, the key, what was expected and what was found, on one line; also where an option overrides it."""
    with pytest.raises(UsageError, match=said) as caught:
        of_file(file, text, port=1)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("PROT", "1", "MEZZOTINT_PROT: expected a variable of the service; did you mean MEZZOTINT_PORT?"),
        (
            "PORT",
            "tcp://10.0.0.1:80",
            'MEZZOTINT_PORT: expected a whole number from 0 to 65535, found "tcp://10.0.0.1:80"',
        ),
        ("PORT", "²", "MEZZOTINT_PORT: expected a whole number"),
        ("INSTALLED_PACKS", "maybe", 'MEZZOTINT_INSTALLED_PACKS: expected true or false, found "maybe"'),
        ("LEASE", "inf", 'MEZZOTINT_LEASE: expected a number above 0, found "inf"'),
    ],
)
def test_a_mistake_in_the_environment_is_named(name: str, text: str, said: str) -> None:
    """By the name of the variable."""
    with pytest.raises(UsageError) as caught:
        read_settings({}, {f"MEZZOTINT_{name}": text}, None)
    assert str(caught.value).startswith(said)


def test_what_clients_are_told_means_nothing_here() -> None:
    """A shell that is set up for ``mezzotint jobs`` can start a service: its token is not the service's."""
    told = {"MEZZOTINT_SERVER": "http://studio.example:8188", "MEZZOTINT_TOKEN": "correct-horse-battery"}
    assert read_settings({}, told, None) == ServiceSettings()


def test_a_mistake_on_the_command_line_is_named() -> None:
    """By the name of the option."""
    with pytest.raises(UsageError, match=r"^--node-timeout: expected a number above 0, found -1$"):
        read_settings({"node_timeout": -1}, {}, None)
    with pytest.raises(
        UsageError, match=r"^--keep-job: expected an option of the service; did you mean --keep-jobs\?$"
    ):
        read_settings({"keep_job": 1}, {}, None)


def test_a_file_that_cannot_be_read_is_named(file: Path) -> None:
    """One that is not there, and one that is no text."""
    with pytest.raises(UsageError, match=r"service\.toml, could not read it"):
        read_settings({}, {}, file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="expected TOML in"):
        read_settings({}, {}, file)
