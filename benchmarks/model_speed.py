"""How long a step of each model takes at its true size, ours and in diffusers' own pipeline, and how much faster the distilled ones are.

    python -m benchmarks.model_speed [NAME ...] [--rounds N] [--steps N] [--pixels N] [--folder DIR] [--small]

Each model is a process of its own: its network's random weights are written to a file, mapped by our store, sampled, and the file is
removed. Both sides run the same tensors in float32 on the CPU with guidance, in alternating rounds, so that a machine that gets slower or
faster meanwhile does so for both. Stable Diffusion 1 takes 3.5 GB of disk and of memory, XL 10 GB, 3 medium 8 GB.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.random_models import SMALL, TRUE, UNET, Model
from benchmarks.random_sd15 import write_shapes
from benchmarks.sampling import CFG, pipeline, seconds
from engine.models import Digest, ModelRef
from nodes.diffusion.budget import Budget
from nodes.diffusion.configs import DiTConfig, PartConfig, UNetConfig
from nodes.diffusion.devices import device_policy
from nodes.diffusion.sample import Settings, sample_latent
from nodes.diffusion.store import LoadedModel, LocalModelStore
from nodes.diffusion.unet import denoiser

MODELS: Final = ("sd15", "bk-sdm-small", "sd2", "sdxl", "ssd-1b", "vega", "sd3")
DISTILLED: Final[Mapping[str, tuple[str, ...]]] = {"sd15": ("bk-sdm-small",), "sdxl": ("ssd-1b", "vega")}
"""Model -> those that were made from it."""

TOKENS: Final = 77
_SIZES: Final = 6 * 256
"""Numbers of SDXL's vector that are sinusoids of sizes; what is before them is the pooled text."""


class Contest:
    """The same steps of the same network, by our sampling and by the pipeline of diffusers."""

    def __init__(self, loaded: LoadedModel, steps: int, pixels: int) -> None:
        self.loaded = loaded
        self.steps = steps
        self.pixels = pixels
        config: Any = loaded.config
        family = loaded.facts.family.name
        generator = torch.Generator().manual_seed(0)
        self.texts = torch.randn(2, TOKENS, config.context_dim, generator=generator)
        pooled = _pooled_width(config)
        self.pooled = torch.randn(2, pooled, generator=generator) if pooled else None
        self.latent = torch.zeros(1, loaded.facts.latent_channels, pixels // 8, pixels // 8)
        self.pipeline = _pipeline(family, loaded.module)
        self.scheduler = "sgm_uniform" if family == "sd3" else "normal"

    def ours(self) -> Tensor:
        """Our sampling, euler, from conditioning to a latent."""
        sides: list[Any] = [[[text[None], {}]] for text in self.texts]
        if self.pooled is not None:
            for (entry,), pooled in zip(sides, self.pooled, strict=True):
                entry[1]["pooled_output"] = pooled[None]
        settings = Settings(seed=1, steps=self.steps, cfg=CFG, sampler="euler", scheduler=self.scheduler)
        positive, negative = sides
        latent: Tensor = sample_latent(denoiser(self.loaded), settings, positive, negative, {"samples": self.latent})[
            "samples"
        ]
        return latent

    def theirs(self) -> Tensor:
        """The pipeline of diffusers with its Euler scheduler, from embeddings to a latent."""
        given = dict(zip(("prompt_embeds", "negative_prompt_embeds"), self.texts[:, None], strict=True))
        if self.pooled is not None:
            names = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
            given |= dict(zip(names, self.pooled[:, None], strict=True))
        made: Any = self.pipeline(
            **given,
            num_inference_steps=self.steps,
            guidance_scale=CFG,
            height=self.pixels,
            width=self.pixels,
            output_type="latent",
        )
        latent: Tensor = made.images
        return latent


def _pooled_width(config: PartConfig) -> int | None:
    if isinstance(config, DiTConfig):
        return config.pooled_dim
    assert isinstance(config, UNetConfig)
    return None if config.vector_dim is None else config.vector_dim - _SIZES


def _pipeline(family: str, network: Any) -> Any:
    if family == "sd3":
        return _pipeline_of_sd3(network)
    return _pipeline_of_sdxl(_told_sizes(network)) if family == "sdxl" else pipeline(network)


def _told_sizes(network: Any) -> Any:
    """SDXL's UNet as diffusers has it, which makes the vector of pooled text and sizes itself: the same tensors, not copied."""
    from accelerate import init_empty_weights
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    config |= {"class_embed_type": None, "addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    with init_empty_weights():
        twin = UNet2DConditionModel(**config)
    renamed = {key.replace("class_embedding", "add_embedding"): it for key, it in network.state_dict().items()}
    twin.load_state_dict(renamed, assign=True)
    return twin.eval()


def _small_vae(channels: int) -> Any:
    """One that only tells a pipeline how many pixels a latent cell is."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    return AutoencoderKL(
        block_out_channels=(32,) * 4, down_block_types=down, up_block_types=up, latent_channels=channels
    )


def _pipeline_of_sdxl(unet: Any) -> Any:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    none = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    made = StableDiffusionXLPipeline(vae=_small_vae(4), unet=unet, scheduler=scheduler, add_watermarker=False, **none)
    made.set_progress_bar_config(disable=True)
    return made


def _pipeline_of_sd3(transformer: Any) -> Any:
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    towers = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    made = StableDiffusion3Pipeline(
        vae=_small_vae(16), transformer=transformer, scheduler=scheduler, **dict.fromkeys(towers)
    )
    made.set_progress_bar_config(disable=True)
    return made


def measure(name: str, model: Model, folder: Path, rounds: int, steps: int, pixels: int) -> dict[str, Any]:
    """Write, load and sample one model in this process; times are seconds a step."""
    path = folder / f"{name}.safetensors"
    shapes = {key: shape for key, shape in model.shapes().items() if key.startswith(UNET)}
    write_shapes(path, shapes, "float32")
    store = LocalModelStore(device_policy("cpu"), Budget(1 << 40))
    with store.lease(ModelRef(Digest(name), "unet", str(path))) as loaded:
        path.unlink()  # mapped, and gone when this process is
        contest = Contest(loaded, steps, pixels)
        for run in (contest.ours, contest.theirs):
            if not bool(run().isfinite().all()):
                raise SystemExit(f"expected finite latents of {name}, found NaN or infinity")
        times = [[spent(run, steps) for run in (contest.ours, contest.theirs)] for _ in range(rounds)]
        weights = sum(parameter.nbytes for parameter in loaded.module.parameters())
    wall, processor = ([[side[clock] for side in sides] for sides in times] for clock in (0, 1))
    return {
        "ours": statistics.median(ours for ours, _ in wall),
        "theirs": statistics.median(theirs for _, theirs in wall),
        "ratios": [ours / theirs for ours, theirs in wall],
        "processor": statistics.median(ours for ours, _ in processor),
        "processor_ratios": [ours / theirs for ours, theirs in processor],
        "weights": weights,
        "peak": peak_bytes(),
    }


def spent(run: Callable[[], object], steps: int) -> tuple[float, float]:
    """Seconds a step, by the clock and of all processors: the latter hardly depend on what else the machine is at."""
    started = time.process_time()
    wall = seconds(run)
    return wall / steps, (time.process_time() - started) / steps


def peak_bytes() -> int:
    """The most memory this process has had, mapped weights among it (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit("expected VmHWM in /proc/self/status, found none; this benchmark needs Linux")
    return int(found[1]) * 1024


def in_its_own_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """``measure`` in a process that then ends, so that nothing of the model is left."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        command = [sys.executable, "-m", "benchmarks.model_speed", name, "--measure", folder]
        command += ["--small"] if arguments.small else []
        command += [f"--{key}={getattr(arguments, key)}" for key in ("rounds", "steps", "pixels")]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def report(name: str, found: Mapping[str, Any]) -> str:
    ratios = found["ratios"]
    return (
        f"{name}: {found['ours']:.2f} s a step, diffusers' pipeline {found['theirs']:.2f} s, "
        f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} rounds); "
        f"processor time {found['processor']:.2f} s, ratio {statistics.median(found['processor_ratios']):.3f}; "
        f"weights {found['weights'] / 2**30:.2f} GiB, peak memory {found['peak'] / 2**30:.2f} GiB"
    )


def comparisons(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How much faster than what they were made from the distilled models are, of those that were measured."""
    return [
        f"{small} is {found[large]['ours'] / found[small]['ours']:.2f} times as fast as {large}, "
        f"by processor time {found[large]['processor'] / found[small]['processor']:.2f} times"
        for large, made in DISTILLED.items()
        for small in made
        if large in found and small in found
    ]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}; default: all, one by one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--pixels", type=int, default=256, help="pixels a side")
    parser.add_argument("--folder", type=Path, help="where the weights are put while a model runs")
    parser.add_argument("--small", action="store_true", help="models of a few megabytes, to see whether it runs")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if unknown := set(arguments.names) - set(TRUE):
        parser.error(f"expected names among {', '.join(MODELS)}, found {', '.join(sorted(unknown))}")
    numbers = (arguments.rounds, arguments.steps, arguments.pixels)
    if arguments.measure is not None:
        (name,) = arguments.names
        model = (SMALL if arguments.small else TRUE)[name]
        print(json.dumps(measure(name, model, arguments.measure, *numbers)))
        return
    found = {}
    for name in arguments.names or MODELS:
        found[name] = in_its_own_process(name, arguments)
        print(report(name, found[name]), flush=True)
    for line in comparisons(found):
        print(line)


if __name__ == "__main__":
    main()
