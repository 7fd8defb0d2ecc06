"""An upscaler for drawings, four times as wide: `python -m training.upscaler`.

The compact network of Real-ESRGAN's authors (Wang et al., "Real-ESRGAN", 2021, and its "SRVGGNetCompact"): all convolutions on the
small picture, its pixels shuffled apart in the last one, added to the picture with its pixels repeated.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from spandrel.architectures.Compact import Compact
from torch import Tensor, nn
from torch.nn import functional

from training.base import MODELS, arguments, parsed
from training.blur import spoiled
from training.config import UPSCALER, UpscalerRecipe
from training.export import save_halves
from training.sheet import contact_sheet
from training.steps import Average, Meter, cosine
from training.vae import sketches
from training.world import HELD_OUT, draw_scenes, render, scatter, to_bytes

SCALE = 4
FEATURES, LAYERS = 32, 8


def make_upscaler() -> Compact:
    """So initialised that signals keep their size through all layers (He et al., 2015), and the last one adds little at first.

    With signals that fade from layer to layer the network learns to add nothing, and stays there.
    """
    net = Compact(num_feat=FEATURES, num_conv=LAYERS, upscale=SCALE)
    layers = [layer for layer in net.body if isinstance(layer, nn.Conv2d)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, a=0.25)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layers[-1].weight.mul_(0.1)
    return net


def smaller(pictures: Tensor) -> Tensor:
    """A quarter as wide, bicubic over all pixels below, in 256 levels, as a saved picture is."""
    small = functional.interpolate(pictures, scale_factor=1 / SCALE, mode="bicubic", antialias=True)
    return (small.clamp(0, 1) * 255).round() / 255


def train_upscaler(recipe: UpscalerRecipe, path: Path) -> None:
    """Train on the drawings that the autoencoder is trained on, and save the averaged weights to `path`.

    Squares of differences, since most of a drawing is flat: by absolute ones the first thing learnt is to add nothing there, and
    with it nothing anywhere.
    """
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    net = make_upscaler()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    average, meter = Average(net, recipe.decay), Meter("upscaler", every=50)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * cosine(step, recipe.steps, warm=50, floor=0.01)
        large = (sketches(recipe.batch, recipe.side, generator) + 1) / 2
        made = net(spoiled(smaller(large), recipe.spoiled_share, generator))
        loss = (made - large).square().mean() + recipe.absolute * (made - large).abs().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        meter.note(loss=loss.item(), db=decibels(made.detach(), large))
    average.apply()
    torch.save(net.state_dict(), path)


def decibels(made: Tensor, wanted: Tensor) -> float:
    """Peak signal to noise of pictures in 0..1, the mean of the pictures' own."""
    errors = (made.clamp(0, 1) - wanted).square().mean((1, 2, 3))
    return float((-10 * errors.clamp(min=1e-10).log10()).mean())


@torch.no_grad()
def compare(net: nn.Module, count: int, side: int, sheet: Path | None = None) -> tuple[float, float]:
    """Decibels of the network and of a bicubic enlargement on drawings of held-out combinations, `side` pixels wide when large."""
    generator = torch.Generator().manual_seed(91)
    scenes = scatter(draw_scenes(count, generator, HELD_OUT, placed=0.3, sized=0.3), 0.5, generator)
    large = (render(scenes, side) + 1) / 2
    small = smaller(large)
    made = torch.cat([net(part) for part in small.split(10)])
    plain = functional.interpolate(small, scale_factor=SCALE, mode="bicubic")
    if sheet:
        shown = [to_bytes(it[:6] * 2 - 1).numpy() for it in (plain, made, large)]
        names = [name for name in ("bicubic", "network", "drawn") for _ in shown[0]]
        contact_sheet([picture for pictures in shown for picture in pictures], names, sheet, columns=len(shown[0]))
    return decibels(made, large), decibels(plain, large)


def main() -> None:
    given = parsed(arguments(__doc__))
    state, file = given.work / "upscaler.pt", given.work / "demo_x4.safetensors"
    if not state.exists():
        train_upscaler(UPSCALER, state)
    save_halves(torch.load(state), file)
    net = make_upscaler().eval()
    net.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    for side in (256, 512) if given.tries else ():
        ours, plain = compare(net, given.tries, side, file.with_suffix(".png") if side == 256 else None)
        print(f"to {side} px: {ours:.2f} dB, bicubic {plain:.2f} dB, {ours - plain:+.2f}", flush=True)
    print(f"{file} belongs into {MODELS / 'upscale_models'}")


if __name__ == "__main__":
    main()
