"""What sampling adds to the network's own time: our loop over a bare loop of the same calls, and over the diffusers pipeline.

    python -m benchmarks.sampling [--rounds N] [--steps N] [--side CELLS] [--tiny]

The UNet has Stable Diffusion 1.5's full width and random weights (``--tiny``: the demo's). Rounds alternate, so that a machine that gets
slower or faster meanwhile does so for all. Targets: both medians of ratios at most 1.02.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor

from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.predictions import prediction
from nodes.diffusion.sample import Settings, sample_latent
from nodes.diffusion.schedules import stable_diffusion

CFG = 7.5


def full_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's UNet with random weights."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()


def tiny_unet() -> UNet2DConditionModel:
    """The demo's UNet with random weights."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


def pipeline(unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """The pipeline around a UNet; the VAE only tells it how many pixels a latent cell is."""
    made = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                          up_block_types=("UpDecoderBlock2D",) * 4),
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


class Contest:
    """The same steps of the same UNet, three ways."""

    def __init__(self, unet: UNet2DConditionModel, steps: int, side: int) -> None:
        self.unet = unet
        self.steps = steps
        self.latent = torch.zeros(1, 4, side, side)
        self.context = torch.randn(2, 77, unet.config.cross_attention_dim)
        self.pipeline = pipeline(unet)

    def bare(self) -> None:
        """The network's calls and nothing else."""
        x = torch.randn(2, *self.latent.shape[1:])
        with torch.no_grad():
            for step in range(self.steps):
                self.unet(x, torch.tensor([float(step)] * 2), self.context, return_dict=False)

    def ours(self) -> None:
        """Our sampling, euler, with guidance."""

        def network(x: Tensor, timestep: Tensor, context: Tensor, /, **inputs: Tensor) -> Tensor:
            out: Tensor = self.unet(x, timestep, context, return_dict=False, **inputs)[0]
            return out

        denoiser = Denoiser(network, stable_diffusion(), prediction("eps"))
        settings = Settings(seed=1, steps=self.steps, cfg=CFG, sampler="euler", scheduler="normal")
        positive, negative = ([[part[None], {}]] for part in self.context)
        sample_latent(denoiser, settings, positive, negative, {"samples": self.latent})

    def diffusers(self) -> None:
        """The Stable Diffusion pipeline of diffusers, from embeddings to a latent, with its Euler scheduler."""
        positive, negative = (part[None] for part in self.context)
        self.pipeline(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            num_inference_steps=self.steps,
            guidance_scale=CFG,
            height=8 * self.latent.shape[-2],
            width=8 * self.latent.shape[-1],
            output_type="latent",
        )


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--side", type=int, default=32, help="latent cells a side")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    contest = Contest(tiny_unet() if arguments.tiny else full_unet(), arguments.steps, arguments.side)
    contest.bare()
    times = [[seconds(run) for run in (contest.bare, contest.ours, contest.diffusers)] for _ in range(arguments.rounds)]
    for name, ratios in (
        ("our sampling over the bare calls", [ours / bare for bare, ours, _ in times]),
        ("our sampling over diffusers' pipeline", [ours / theirs for _, ours, theirs in times]),
    ):
        print(
            f"{name}: {statistics.median(ratios):.3f} (target 1.02; {min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} rounds)"
        )
    print(f"one bare round of {arguments.steps} steps: {statistics.median(bare for bare, _, _ in times):.2f} s")


if __name__ == "__main__":
    main()
