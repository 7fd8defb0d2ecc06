"""Samplings of the demo model that can be cut, and a process that finishes those it finds in a folder: FOLDER."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.models import Digest, ModelRef, Part
from nodes.diffusion import sample, text, unet
from nodes.diffusion.devices import device_policy
from nodes.diffusion.resume import from_bytes
from nodes.diffusion.samplers import State
from nodes.diffusion.store import LocalModelStore

DEMO = Path(__file__).parents[3] / "models" / "checkpoints" / "demo.safetensors"


class Run(Protocol):
    def __call__(self, sampler: str, *, resume: State | None = None, save: sample.Save | None = None) -> Tensor: ...


@contextmanager
def samplings() -> Iterator[Run]:
    """Gives what samples a red circle of 64 pixels in four steps, from the beginning or from a state."""
    store = LocalModelStore(device_policy("cpu"))

    def ref(part: Part) -> ModelRef:
        return ModelRef(Digest("demo"), part, str(DEMO))

    with store.lease(ref("clip")) as clip:
        positive, negative = (text.encode(words, clip) for words in ("a red circle on a blue background", ""))
    empty: dict[str, Any] = {"samples": torch.zeros(1, 4, 8, 8)}
    with store.lease(ref("unet")) as model:

        def run(sampler: str, *, resume: State | None = None, save: sample.Save | None = None) -> Tensor:
            settings = sample.Settings(seed=3, steps=4, cfg=5.0, sampler=sampler, scheduler="karras")
            result = sample.sample_latent(
                unet.denoiser(model),
                settings,
                positive,
                negative,
                empty,
                callbacks=sample.Callbacks(resume=resume, save=save),
            )
            latent: Tensor = result["samples"]
            return latent

        yield run


def main(folder: Path) -> None:
    with samplings() as run:
        for path in sorted(folder.glob("*.state")):
            sampler = path.stem.partition("-")[0]
            save_file({"x": run(sampler, resume=from_bytes(path.read_bytes()))}, path.with_suffix(".safetensors"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
