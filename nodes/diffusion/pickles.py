"""Turn a pickle checkpoint into a safetensors file, in a process of its own.

A pickle can run code when it is read. ``weights_only`` lets torch build nothing but tensors and plain containers; a process
of its own means that whatever goes wrong, memory included, goes wrong there. The result appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.errors import InputError, MissingFile, ModelFileError, ResourceError

if TYPE_CHECKING:
    import torch

_NESTED: Final = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net", "depth_model")
"""Keys under which trainers keep the weights, in the order in which they are believed."""

_HALVES: Final = ({"id_encoder"}, {"image_proj", "ip_adapter"})
"""The mappings that a PhotoMaker, and an IP-Adapter, is made of at least."""


def convert_pickle(source: Path, target: Path | None = None) -> Path:
    """Write the tensors of the pickle ``source`` as a safetensors file, by default beside it; returns where.

    Raises:
        MissingFile: there is no ``source``.
        InputError: ``target`` exists already or is the source.
        ModelFileError: the pickle is broken, holds more than tensors, or none.
    """
    target = target or source.with_suffix(".safetensors")
    if not source.is_file():
        raise MissingFile(f"expected a checkpoint at {source}, found none; check the name")
    if target.exists():
        raise InputError(f"expected no file at {target}, found one; move it away or name another")
    command = [sys.executable, "-m", __name__, str(source.resolve()), str(target.resolve())]
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((root, *sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"the converter ended with code {done.returncode}"
        raise ModelFileError(f"expected a pickle of tensors, found {source}: {reason}")
    return target


def read_pickle(source: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickle, mapped where its format allows.

    Raises ModelFileError when it is broken, holds anything that is no plain data, or no tensors.
    """
    return _read(source)[0]


def _read(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a pickle, and what else a safetensors file should say of them."""
    import torch

    try:
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=_is_zip(source))
    except Exception as error:  # torch raises a dozen types for a broken or a refused pickle
        raise ModelFileError(f"it is broken or holds more than tensors ({type(error).__name__})") from error
    named, metadata = _hypernetwork(content) or (_in_halves(content) or _unwrapped(content), {})
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ModelFileError("it holds no tensors")
    whole = {
        name: tensor.detach().clone().contiguous() if _is_view(tensor) else tensor for name, tensor in tensors.items()
    }
    return whole, metadata


def _hypernetwork(content: Any) -> tuple[dict[str, Any], dict[str, str]] | None:
    """A hypernetwork flattened, as ``nodes.diffusion.hypernetworks`` reads it: its layers are two mappings below each number, and its
    settings stand beside these."""
    if not isinstance(content, Mapping):
        return None
    sides = {
        f"{width}.{side}": layers
        for width, pair in content.items()
        if type(width) is int and isinstance(pair, list | tuple)
        for side, layers in enumerate(pair)
        if isinstance(layers, Mapping)
    }
    if not sides:
        return None
    named = {f"{side}.{name}": value for side, layers in sides.items() for name, value in layers.items()}
    settings = {name: value for name, value in content.items() if isinstance(name, str) and _is_plain(value)}
    return named, {name: json.dumps(value) for name, value in settings.items()}


def _in_halves(content: Any) -> dict[str, Any] | None:
    """A PhotoMaker or an IP-Adapter flattened: it comes as mappings beside each other, each goes behind its name."""
    if not isinstance(content, Mapping):
        return None
    halves = {name: half for name, half in content.items() if isinstance(half, Mapping)}
    if not any(halves.keys() >= needed for needed in _HALVES):
        return None
    return {f"{outer}.{name}": value for outer, half in halves.items() for name, value in half.items()}


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _is_zip(source: Path) -> bool:
    with source.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_view(tensor: torch.Tensor) -> bool:
    """Whether a tensor shares or misses some of its memory, which a safetensors file cannot say."""
    return not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != tensor.nbytes


def _unwrapped(content: Any) -> Mapping[str, Any]:
    """The mapping of names to tensors, out of what trainers wrap around it."""
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ModelFileError(f"it holds a {type(content).__name__}, not tensors by name")
    return content


def _write(source: Path, target: Path) -> None:
    from safetensors.torch import save_file

    found, metadata = _read(source)
    tensors = _without_twins(found)
    handle, partial = tempfile.mkstemp(suffix=".partial", dir=target.parent)
    os.close(handle)
    try:
        save_file(tensors, partial, metadata={**metadata, "format": "pt"})
        # temporary files are their owner's alone; whoever could read the old file can read this one
        shutil.copymode(source, partial)
        os.replace(partial, target)
    except OSError as error:
        raise ResourceError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        Path(partial).unlink(missing_ok=True)


def _without_twins(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under two names get memory of their own each."""
    seen: set[int] = set()
    result: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        address = tensor.data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result


def main() -> int:
    """Convert the file of the first argument into that of the second; says why on standard error when it cannot."""
    source, target = map(Path, sys.argv[1:3])
    try:
        _write(source, target)
    except (ModelFileError, ResourceError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
