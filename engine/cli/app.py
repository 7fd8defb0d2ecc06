"""The commands and their arguments. What they do is in the modules beside this one, imported when a command is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.screen import say
from engine.errors import InvalidGraph, MezzotintError, UsageError, WorkflowError

app = typer.Typer(
    name="mezzotint",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run diffusion workflows: JSON files of nodes and links, ComfyUI's among them.",
)
cache_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What earlier runs left to be used again.")
models_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Model files.")
app.add_typer(cache_app, name="cache")
app.add_typer(models_app, name="models")

FAILED = 1
WRONG = 2

File = Annotated[
    Path, typer.Argument(help="API JSON, editor JSON, or a PNG that carries a workflow.", show_default=False)
]
Sets = Annotated[
    list[str], typer.Option("--set", metavar="NODE.INPUT=VALUE", help="Change an input; NODE is an id or a title.")
]
Models = Annotated[
    list[Path], typer.Option("--models", metavar="DIR", help="Folder of model folders; may be given again.")
]
ExtraModelPaths = Annotated[
    Path | None, typer.Option("--extra-model-paths", metavar="FILE", help="A ComfyUI extra_model_paths.yaml.")
]
CustomNodes = Annotated[
    list[Path],
    typer.Option("--custom-nodes", metavar="DIR", help="Folder of third-party node packs; may be given again."),
]
InstalledPacks = Annotated[
    bool, typer.Option("--installed-packs", help="Load third-party node packs that are installed as packages.")
]
NodeTimeout = Annotated[
    float | None,
    typer.Option(
        "--node-timeout", metavar="S", min=1, help="Seconds without a sign of life after which a pack's node is ended."
    ),
]
Input = Annotated[Path, typer.Option("--input", metavar="DIR", help="Where pictures are read.")]
Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Where pictures are written.")]
State = Annotated[Path, typer.Option("--state", metavar="DIR", help="Cache, checkpoints, file digests.")]
Targets = Annotated[
    list[str],
    typer.Option("--target", metavar="NODE", help="Run only this node and what it needs; may be given again."),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="D", help="cuda, cuda:1, mps, xpu or cpu; default: the best there is.")
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="float32, float16 or bfloat16; default: float32 on the CPU, half on a GPU."),
]
Budget = Annotated[
    str | None,
    typer.Option("--vram-budget", metavar="B", help="What models may take of the device: 4GB, 80%, or bytes."),
]
NoiseDevice = Annotated[
    str | None, typer.Option("--noise-device", help="cpu: draw all noise on the CPU, the same on every machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_MODELS = [Path("models")]
_INPUT, _OUTPUT, _STATE = Path("input"), Path("output"), Path("state")


@contextmanager
def exit_codes() -> Iterator[None]:
    """Errors of ours end the process with one line and their code; anything else is a bug and keeps its traceback."""
    try:
        yield
    except InvalidGraph as error:
        for problem in error.problems:
            say(f"error: {problem.message}")
        raise typer.Exit(WRONG) from error
    except (WorkflowError, UsageError) as error:
        say(f"error: {error}")
        raise typer.Exit(WRONG) from error
    except MezzotintError as error:
        say(f"error: {error}")
        raise typer.Exit(FAILED) from error


@app.command()
def run(
    file: File,
    sets: Sets = [],  # noqa: B006  (typer copies it)
    output: Output = _OUTPUT,
    input: Input = _INPUT,
    models: Models = _MODELS,
    extra_model_paths: ExtraModelPaths = None,
    custom_nodes: CustomNodes = [],  # noqa: B006
    installed_packs: InstalledPacks = False,
    node_timeout: NodeTimeout = None,
    state: State = _STATE,
    target: Targets = [],  # noqa: B006
    device: Device = None,
    dtype: Dtype = None,
    vram_budget: Budget = None,
    noise_device: NoiseDevice = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Run so many times.")] = 1,
    randomize: Annotated[
        bool, typer.Option("--randomize", help="Draw a new seed for every seed input, each time.")
    ] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute everything again.")] = False,
    stop_on_failure: Annotated[
        bool, typer.Option("--stop-on-failure", help="End with the first node that fails, whatever else could run.")
    ] = False,
    watch_inputs: Annotated[
        bool, typer.Option("--watch-inputs", help="Fail nodes that change what they are given. Slow.")
    ] = False,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="URL", help="Run it there; the files come back into the output folder."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a workflow and print the paths of what it made."""
    from engine.cli.run import RunArguments, run_command
    from engine.places import Places
    from engine.run.settings import DeviceSettings

    places = Places(
        models=tuple(models),
        input=input,
        output=output,
        state=state,
        extra_model_paths=extra_model_paths,
        custom_nodes=tuple(custom_nodes),
        installed_packs=installed_packs,
    )
    arguments = RunArguments(
        file=file,
        sets=tuple(sets),
        targets=tuple(target),
        count=count,
        randomize=randomize,
        use_cache=not no_cache,
        node_timeout=node_timeout,
        stop_on_failure=stop_on_failure,
        watch_inputs=watch_inputs,
        json=json,
    )
    with exit_codes():
        settings = DeviceSettings(device=device, dtype=dtype, vram_budget=vram_budget, noise_device=noise_device)
        raise typer.Exit(run_command(arguments, places, settings, server))


@app.command()
def validate(
    file: File,
    sets: Sets = [],  # noqa: B006
    models: Models = _MODELS,
    extra_model_paths: ExtraModelPaths = None,
    custom_nodes: CustomNodes = [],  # noqa: B006
    installed_packs: InstalledPacks = False,
    input: Input = _INPUT,
    json: Json = False,
) -> None:
    """Say everything that is wrong with a workflow; nothing runs."""
    from engine.cli.inspect import validate_command
    from engine.places import Places

    with exit_codes():
        places = Places(
            models=tuple(models),
            input=input,
            extra_model_paths=extra_model_paths,
            custom_nodes=tuple(custom_nodes),
            installed_packs=installed_packs,
        )
        raise typer.Exit(validate_command(file, tuple(sets), places, as_json=json))


@app.command()
def plan(
    file: File,
    sets: Sets = [],  # noqa: B006
    models: Models = _MODELS,
    extra_model_paths: ExtraModelPaths = None,
    custom_nodes: CustomNodes = [],  # noqa: B006
    installed_packs: InstalledPacks = False,
    input: Input = _INPUT,
    state: State = _STATE,
    target: Targets = [],  # noqa: B006
    device: Device = None,
    dtype: Dtype = None,
    json: Json = False,
) -> None:
    """Say what a run would do: what is cached and where, what would be computed and why."""
    from engine.cli.inspect import plan_command
    from engine.places import Places
    from engine.run.settings import DeviceSettings

    with exit_codes():
        places = Places(
            models=tuple(models),
            input=input,
            state=state,
            extra_model_paths=extra_model_paths,
            custom_nodes=tuple(custom_nodes),
            installed_packs=installed_packs,
        )
        plan_command(file, tuple(sets), tuple(target), places, DeviceSettings(device=device, dtype=dtype), as_json=json)


@app.command()
def nodes(
    name: Annotated[
        str | None, typer.Argument(help="A node type; all of them if left out.", show_default=False)
    ] = None,
    models: Models = _MODELS,
    extra_model_paths: ExtraModelPaths = None,
    custom_nodes: CustomNodes = [],  # noqa: B006
    installed_packs: InstalledPacks = False,
    input: Input = _INPUT,
    json: Json = False,
) -> None:
    """List the node types, or describe one. With --json: the object_info schema."""
    from engine.cli.inspect import nodes_command
    from engine.places import Places

    with exit_codes():
        places = Places(
            models=tuple(models),
            input=input,
            extra_model_paths=extra_model_paths,
            custom_nodes=tuple(custom_nodes),
            installed_packs=installed_packs,
        )
        nodes_command(name, places, as_json=json)


@cache_app.command("info")
def cache_info(state: State = _STATE, json: Json = False) -> None:
    """What the cache holds and how large it is."""
    from engine.cli.maintain import cache_info_command

    with exit_codes():
        cache_info_command(state, as_json=json)


@cache_app.command("clear")
def cache_clear(state: State = _STATE) -> None:
    """Forget every kept result. Pictures in the output folder stay."""
    from engine.cli.maintain import cache_clear_command

    with exit_codes():
        cache_clear_command(state)


@models_app.command("list")
def models_list(
    folder: Annotated[
        str | None, typer.Option("--folder", metavar="KEY", help="One model folder, such as loras; default: all.")
    ] = None,
    digests: Annotated[
        bool, typer.Option("--digests", help="Work out the digests that are not known yet; reads every file.")
    ] = False,
    models: Models = _MODELS,
    extra_model_paths: ExtraModelPaths = None,
    state: State = _STATE,
    json: Json = False,
) -> None:
    """Say what is in the model folders: family and parts, size, digest where it is known."""
    from engine.cli.models import list_command
    from engine.places import Places

    with exit_codes():
        places = Places(models=tuple(models), state=state, extra_model_paths=extra_model_paths)
        list_command(places, folder, digests=digests, as_json=json)


@models_app.command("info")
def models_info(
    name: Annotated[
        str, typer.Argument(help="A name in the model folders, or a path.", show_default=False, metavar="NAME")
    ],
    models: Models = _MODELS,
    extra_model_paths: ExtraModelPaths = None,
    state: State = _STATE,
    json: Json = False,
) -> None:
    """Say what one model is: its parts and their sizes, what it predicts, its dtypes and its digest."""
    from engine.cli.models import info_command
    from engine.places import Places

    with exit_codes():
        places = Places(models=tuple(models), state=state, extra_model_paths=extra_model_paths)
        info_command(name, places, as_json=json)


@models_app.command("pull")
def models_pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Short names, OWNER/REPO/FILE, or OWNER/REPO for a diffusers folder; left out: list the short names.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Default: the model folder where it belongs.")
    ] = None,
    models: Models = _MODELS,
    extra_model_paths: ExtraModelPaths = None,
) -> None:
    """Download models from the Hugging Face hub and check their digests. Goes on where an earlier download stopped."""
    from engine.cli.models import pull_command
    from engine.places import Places

    with exit_codes():
        pull_command(names or (), to, Places(models=tuple(models), extra_model_paths=extra_model_paths))


@models_app.command("convert")
def models_convert(
    file: Annotated[Path, typer.Argument(help="A .ckpt, .pt, .pth or .bin file.", show_default=False)],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Default: the same name with .safetensors.")
    ] = None,
) -> None:
    """Rewrite a pickle checkpoint as safetensors. It is read in a child process that unpickles tensors and nothing else."""
    from engine.cli.maintain import models_convert_command

    with exit_codes():
        models_convert_command(file, to)
