"""``mezzotint serve``; ``python server.py`` is the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.app import app, exit_codes

Host = Annotated[
    str | None,
    typer.Option("--host", metavar="H", help="Address to listen on; default: 127.0.0.1, for this machine alone."),
]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Default: 8188.")]
Models = Annotated[
    list[Path] | None, typer.Option("--models", metavar="DIR", help="Folder of model folders; may be given again.")
]
Input = Annotated[Path | None, typer.Option("--input", metavar="DIR", help="Where pictures are read.")]
Output = Annotated[Path | None, typer.Option("--output", metavar="DIR", help="Where pictures are written.")]
Temp = Annotated[
    Path | None, typer.Option("--temp", metavar="DIR", help="Where previews are written; emptied at every start.")
]
State = Annotated[Path | None, typer.Option("--state", metavar="DIR", help="Jobs, cache, checkpoints, settings.")]
ExtraModelPaths = Annotated[
    Path | None, typer.Option("--extra-model-paths", metavar="FILE", help="A ComfyUI extra_model_paths.yaml.")
]
CustomNodes = Annotated[
    list[Path] | None,
    typer.Option("--custom-nodes", metavar="DIR", help="Folder of node packs; may be given again."),
]
InstalledPacks = Annotated[
    bool | None, typer.Option("--installed-packs", help="Load node packs that are installed as packages.")
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="D", help="cuda, cuda:1, mps, xpu or cpu; default: the best there is."),
]
Devices = Annotated[
    list[str] | None,
    typer.Option("--devices", metavar="D", help="A further device, with a worker of its own; may be given again."),
]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, float16 or bfloat16.")]
VramBudget = Annotated[
    str | None,
    typer.Option("--vram-budget", metavar="B", help="What models may take of the device: 4GB, 80%, or bytes."),
]
NoiseDevice = Annotated[str | None, typer.Option("--noise-device", help="cpu: draw all noise on the CPU.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="F",
        help="File with the token that clients need; off this machine one is made if there is none.",
    ),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-origin", metavar="URL", help="A site whose pages may talk to the service; may be given again."
    ),
]
TrustedProxy = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-proxy",
        metavar="A",
        help="Address of a proxy in front, whose X-Forwarded-For and -Proto are believed; may be given again.",
    ),
]
NodeTimeout = Annotated[
    float | None,
    typer.Option(
        "--node-timeout",
        metavar="S",
        min=1,
        help="Seconds without a sign of life after which a pack's node is ended.",
    ),
]
Grace = Annotated[
    float | None,
    typer.Option("--grace", metavar="S", min=0, help="Seconds a cancelled job has to stop before its worker is ended."),
]
Lease = Annotated[
    float | None,
    typer.Option("--lease", metavar="S", min=1, help="Seconds a worker may be silent before it is replaced."),
]
KeepJobs = Annotated[
    int | None, typer.Option("--keep-jobs", metavar="N", min=0, help="Ended jobs that are remembered at most.")
]
KeepDays = Annotated[
    float | None, typer.Option("--keep-days", metavar="D", min=0, help="Days for which ended jobs are remembered.")
]
LogFormat = Annotated[str | None, typer.Option("--log-format", help="text or json.")]
LogLevel = Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A TOML file with any of these; docs/service.md shows one."),
]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    models: Models = None,
    input: Input = None,
    output: Output = None,
    temp: Temp = None,
    state: State = None,
    extra_model_paths: ExtraModelPaths = None,
    custom_nodes: CustomNodes = None,
    installed_packs: InstalledPacks = None,
    device: Device = None,
    devices: Devices = None,
    dtype: Dtype = None,
    vram_budget: VramBudget = None,
    noise_device: NoiseDevice = None,
    token_file: TokenFile = None,
    allow_origin: AllowOrigin = None,
    trusted_proxy: TrustedProxy = None,
    node_timeout: NodeTimeout = None,
    grace: Grace = None,
    lease: Lease = None,
    keep_jobs: KeepJobs = None,
    keep_days: KeepDays = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    config: Config = None,
) -> None:
    """Serve workflows over HTTP and websockets, with the editor if it is installed."""
    given: dict[str, Any] = {name: value for name, value in locals().items() if name != "config"}
    from engine.service.config import read_settings
    from engine.service.serve import serve as run

    with exit_codes():
        run(read_settings(given, os.environ, config))
