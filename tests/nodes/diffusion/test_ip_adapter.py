"""IP-Adapters in sampling: against diffusers' own, and on small cases worked by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.random_models import SMALL, UNET, UNet
from benchmarks.random_sd15 import write_shapes
from engine.models import Digest, ModelRef, Patch
from engine.run.settings import DeviceSettings
from nodes.diffusion import unet as unets
from nodes.diffusion.configs import UNetConfig
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.ip_adapter import attention_widths, open_adapter
from nodes.diffusion.ip_attention import Asked, Sight, grid_of, scaled
from nodes.diffusion.ip_prompts import ImagePrompt, with_prompt
from nodes.diffusion.ip_weights import Weighing, transformers
from nodes.diffusion.sample import Settings, sample_latent
from nodes.diffusion.store import LocalModelStore, make_store
from tests.nodes.diffusion import ip_adapters

READS = {"base": 24, "full": 32, "plus": 40}
"""Numbers that CLIP gives for each kind."""


@dataclass
class Bench:
    """A small model of a family on the CPU, and adapters for it."""

    folder: Path
    family: str
    store: LocalModelStore

    @property
    def model(self) -> ModelRef:
        return ModelRef(Digest(self.family), "unet", str(self.folder / f"{self.family}.safetensors"))

    def reference(self, *files: ip_adapters.Half) -> Any:
        with self.store.lease(self.model) as loaded:
            assert isinstance(loaded.config, UNetConfig)
            return ip_adapters.reference(loaded.config, loaded.module.state_dict(), *files)

    def file(self, kind: str, seed: int = 4) -> tuple[ip_adapters.Half, Path]:
        path = self.folder / f"{self.family}-{kind}-{seed}.safetensors"
        if not path.exists():
            save_file(ip_adapters.of_kind(kind, self.reference(), READS[kind], seed), path)
        return load_file(path), path

    def prompted(
        self, path: Path, toward: Tensor, away: Tensor, weight: float = 1.0, model: ModelRef | None = None, **more: Any
    ) -> ModelRef:
        """The model, or another, with what was seen for a prompt."""
        adapter = open_adapter(str(path))
        with self.store.lease(self.model) as loaded:
            assert isinstance(loaded.config, UNetConfig)
            count = len(transformers(loaded.config))
        cpu = torch.device("cpu")
        told = {"weights": [[weight]] * count, **more}
        prompt = ImagePrompt(adapter.tokens(toward, cpu), adapter.tokens(away, cpu), **told)
        return with_prompt(model or self.model, Digest(path.name), str(path), prompt)

    def sampled(self, model: ModelRef, network: Any = None, batch: int = 1, cfg: float = 3.0, **sides: Any) -> Tensor:
        """A latent of 8 x 12 cells after two steps; with ``network`` in place of the model's own."""
        with self.store.lease(model) as loaded:
            denoiser = unets.denoiser(loaded)
            if network is not None:
                denoiser = replace(denoiser, network=network)
            settings = Settings(seed=1, steps=2, cfg=cfg, sampler="euler", scheduler="normal")
            positive, negative = sides.get("sides") or conditionings(denoiser)
            latent = {"samples": torch.zeros(batch, 4, 8, 12)}
            found: Tensor = sample_latent(denoiser, settings, positive, negative, latent)["samples"]
            return found


def conditionings(denoiser: Denoiser) -> list[list[Any]]:
    """Two prompts."""
    assert denoiser.reader.hearing is not None
    draw = torch.Generator().manual_seed(0)
    pooled = {"pooled_output": torch.randn(1, 64, generator=draw)}
    return [[[torch.randn(1, 7, denoiser.reader.hearing.width, generator=draw), pooled]] for _ in range(2)]


def seen(kind: str, count: int = 1, seed: int = 0) -> Tensor:
    """What CLIP sees in ``count`` pictures: five patches, where patches are looked at."""
    shape = (count, READS[kind]) if kind == "base" else (count, 5, READS[kind])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def apart(found: Tensor, expected: Tensor) -> float:
    """How far two latents are from each other at most, beside how much they spread."""
    return float((found - expected).abs().max() / expected.std())


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    folder = tmp_path_factory.mktemp("ip_adapter")
    store = make_store(DeviceSettings(device="cpu"))
    for family in ("sd15", "sdxl"):
        network = SMALL[family].network
        assert isinstance(network, UNet)
        small = replace(SMALL[family], network=replace(network, channels=32))
        shapes = {name: shape for name, shape in small.shapes().items() if name.startswith(UNET)}
        write_shapes(folder / f"{family}.safetensors", shapes, "float32")
    return {family: Bench(folder, family, store) for family in ("sd15", "sdxl")}


@pytest.fixture(scope="module")
def sd15(benches: dict[str, Bench]) -> Bench:
    return benches["sd15"]


@pytest.mark.parametrize(
    ("family", "kind"), [("sd15", "base"), ("sd15", "plus"), ("sd15", "full"), ("sdxl", "base"), ("sdxl", "plus")]
)
def test_latents_are_diffusers_own(benches: dict[str, Bench], family: str, kind: str) -> None:
    """The positive side sees the picture, the negative one what it is given, with the weight of the adapter."""
    bench = benches[family]
    file, path = bench.file(kind)
    toward, away = seen(kind), seen(kind, seed=1)
    other = bench.reference(file)
    ip_adapters.scale(other, 0.7)
    expected = bench.sampled(bench.model, ip_adapters.seeing(other, [toward], [away]), batch=2)
    found = bench.sampled(bench.prompted(path, toward, away, 0.7), batch=2)
    assert apart(found, expected) < 1e-4
    assert apart(found, bench.sampled(bench.model, batch=2)) > 1e-2


def test_several_pictures_and_adapters_at_once_are_diffusers_own(sd15: Bench) -> None:
    """Two adapters, the second with three pictures, whose tokens stand beside each other."""
    (one, first), (two, second) = sd15.file("base"), sd15.file("plus", seed=5)
    pictures, nothing = [seen("base"), seen("plus", 3)], [seen("base", seed=1), seen("plus", 3, seed=1)]
    other = sd15.reference(one, two)
    ip_adapters.scale(other, 0.7, 0.4)
    expected = sd15.sampled(sd15.model, ip_adapters.seeing(other, pictures, nothing))
    model = sd15.prompted(first, pictures[0], nothing[0], 0.7)
    found = sd15.sampled(sd15.prompted(second, pictures[1], nothing[1], 0.4, model=model))
    assert apart(found, expected) < 1e-4


def test_files_that_diffusers_saved_hold_the_same(sd15: Bench, tmp_path: Path) -> None:
    """A UNet with an adapter in it, all its tensors under diffusers' names: key by key the same layers and projections."""
    for kind in READS:
        file, path = sd15.file(kind)
        state = {name: it.contiguous() for name, it in sd15.reference(file).state_dict().items()}
        save_file(state, tmp_path / "unet.safetensors")
        saved, own = open_adapter(str(tmp_path / "unet.safetensors")), open_adapter(str(path))
        picture, cpu = seen(kind, 2), torch.device("cpu")
        assert saved.kind == own.kind == kind
        assert torch.allclose(saved.tokens(picture, cpu), own.tokens(picture, cpu), atol=1e-6)
        for number in range(len(own.layers)):
            pairs = zip(saved.layer(number, cpu, torch.float32), own.layer(number, cpu, torch.float32), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_a_model_with_a_picture_leaves_no_trace_and_costs_no_load(sd15: Bench) -> None:
    _, path = sd15.file("base")
    plain = sd15.sampled(sd15.model)
    loads = sd15.store.counters.loads
    model = sd15.prompted(path, seen("base"), seen("base", seed=1))
    assert not torch.equal(sd15.sampled(model), plain)
    assert torch.equal(sd15.sampled(sd15.model), plain)
    assert sd15.store.counters.loads == loads


def test_a_recipe_with_a_picture_travels_as_plain_data(sd15: Bench) -> None:
    """And is equal to another by what the file and the picture are, not by where the file is."""
    _, path = sd15.file("base")
    model = sd15.prompted(path, seen("base"), seen("base", seed=1), mask=torch.ones(1, 16, 16))
    again = ModelRef.from_plain(model.to_plain())
    assert again == model
    assert torch.equal(sd15.sampled(again), sd15.sampled(model))
    moved = replace(model, patches=(replace(model.patches[0], location="elsewhere"),))
    assert moved == model
    assert sd15.prompted(path, seen("base", seed=9), seen("base", seed=1)) != model
    assert str(path) in list(model.locations())


def test_with_a_lora_the_picture_is_added_to_the_changed_model(sd15: Bench, tmp_path: Path) -> None:
    """In any order: the adapter's own layers are not the LoRA's to change."""
    _, path = sd15.file("base")
    draw = torch.Generator().manual_seed(0)
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
    width = attention_widths(_config(sd15))[0]
    save_file(
        {f"{module}.lora_up.weight": torch.randn(width, 2, generator=draw),
         f"{module}.lora_down.weight": torch.randn(2, width, generator=draw)},
        tmp_path / "lora.safetensors",
    )  # fmt: skip
    lora = Patch("lora", Digest("lora"), 1.0, str(tmp_path / "lora.safetensors"))
    first = sd15.prompted(path, seen("base"), seen("base", seed=1)).with_patches(lora)
    last = sd15.prompted(path, seen("base"), seen("base", seed=1), model=sd15.model.with_patches(lora))
    found = sd15.sampled(first)
    assert torch.equal(found, sd15.sampled(last))
    assert apart(found, sd15.sampled(sd15.model.with_patches(lora))) > 1e-3
    assert apart(found, sd15.sampled(replace(first, patches=first.patches[:1]))) > 1e-3


def _config(bench: Bench) -> UNetConfig:
    with bench.store.lease(bench.model) as loaded:
        assert isinstance(loaded.config, UNetConfig)
        return loaded.config


def test_without_a_negative_side_only_the_picture_counts(sd15: Bench) -> None:
    """At a scale of 1 what the negative side sees changes nothing; at 3 it does."""
    _, path = sd15.file("base")
    one, other = (sd15.prompted(path, seen("base"), seen("base", seed=seed)) for seed in (1, 2))
    assert torch.equal(sd15.sampled(one, cfg=1.0), sd15.sampled(other, cfg=1.0))
    assert apart(sd15.sampled(one), sd15.sampled(other)) > 1e-3


def test_each_sample_of_a_batch_follows_its_own_picture(sd15: Bench) -> None:
    """With its own weight and mask; the third follows the second, which is the last. Both sides of guidance are in one call."""
    _, path = sd15.file("base")
    pictures, nothing = seen("base", 2), seen("base", 2, seed=1)
    masks = torch.zeros(2, 8, 12)
    masks[0, :, :6], masks[1, :4] = 1, 1
    weights = [[0.5, 2.0]] * 16
    more: dict[str, Any] = {"apart": True, "mask": masks, "weights": weights}
    together = sd15.sampled(sd15.prompted(path, pictures, nothing, **more), batch=3)
    noise = _noise(3)
    for sample, picture in ((0, 0), (2, 1)):
        alone = sd15.prompted(
            path,
            pictures[picture, None],
            nothing[picture, None],
            mask=masks[picture, None],
            weights=[[weights[0][picture]]] * 16,
        )
        assert apart(together[sample, None], _from_noise(sd15, alone, noise[sample, None])) < 1e-4


def _noise(count: int) -> Tensor:
    return torch.randn(count, 4, 8, 12, generator=torch.Generator().manual_seed(1))


def _from_noise(bench: Bench, model: ModelRef, noise: Tensor) -> Tensor:
    """As ``Bench.sampled`` does, from noise that is given."""
    with bench.store.lease(model) as loaded:
        denoiser = unets.denoiser(loaded)
        settings = Settings(seed=1, steps=2, cfg=3.0, sampler="euler", scheduler="normal", add_noise=False)
        first = float(denoiser.schedule.table[-1])
        # the latent is scaled on its way in, and what is there instead of noise goes in unscaled
        latent = {"samples": noise * (1 + first**2) ** 0.5 / denoiser.latent_format.scale}
        positive, negative = conditionings(denoiser)
        found: Tensor = sample_latent(denoiser, settings, positive, negative, latent)["samples"]
        return found


def denoised(bench: Bench, model: ModelRef, sigma: float) -> Tensor:
    """What the model predicts at a noise level, under one prompt, for the positive side."""
    with bench.store.lease(model) as loaded:
        denoiser = unets.denoiser(loaded)
        entries = unets_entries(denoiser)
        found: Tensor = denoiser(
            torch.ones(1, 4, 8, 12),
            torch.tensor([sigma]),
            entries.context,
            {n: entries.input(n) for n in entries.inputs},
        )
        return found


def unets_entries(denoiser: Denoiser) -> Any:
    from nodes.diffusion.guidance import entries_for

    return entries_for(denoiser, conditionings(denoiser)[0], torch.ones(1, 4, 8, 12), "positive")[0]


@pytest.mark.parametrize(("sigma", "is_seen"), [(6.0, False), (5.0, True), (2.0, True), (1.5, False)])
def test_a_picture_is_seen_between_its_percents(sd15: Bench, sigma: float, is_seen: bool) -> None:
    """0.2 of a run is sigma 5.09, 0.5 is 1.62; outside nothing is changed, not by a bit."""
    _, path = sd15.file("base")
    model = sd15.prompted(path, seen("base"), seen("base"), start=0.2, end=0.5)
    assert torch.equal(denoised(sd15, model, sigma), denoised(sd15, sd15.model, sigma)) is not is_seen


def test_a_weight_of_nothing_is_the_plain_model(sd15: Bench) -> None:
    _, path = sd15.file("base")
    plain = sd15.sampled(sd15.model)
    assert torch.equal(sd15.sampled(sd15.prompted(path, seen("base"), seen("base"), 0.0)), plain)
    masked = sd15.prompted(path, seen("base"), seen("base"), mask=torch.zeros(1, 5, 5))
    assert apart(sd15.sampled(masked), plain) < 1e-4
    whole = sd15.prompted(path, seen("base"), seen("base"), mask=torch.ones(1, 5, 5))
    assert apart(sd15.sampled(whole), sd15.sampled(sd15.prompted(path, seen("base"), seen("base")))) < 1e-4


# masks


def asked(area: tuple[int, int, int, int], whole: tuple[int, int], samples: int = 1) -> Asked:
    """One call for an area (height, width, row, column) of a latent."""
    height, width, row, column = area
    return Asked(
        height, width, torch.zeros(samples, dtype=torch.long), torch.arange(samples),
        torch.tensor([[row, column]] * samples).float(), torch.tensor([whole] * samples).float(),
    )  # fmt: skip


def sight(bench: Bench, mask: Tensor) -> Sight:
    told = ImagePrompt(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), [[1.0]], mask=mask)
    return Sight(open_adapter(str(bench.file("base")[1])), told)


@pytest.mark.parametrize(
    ("height", "width", "grid"), [(8, 12, (8, 12)), (8, 12, (4, 6)), (9, 13, (5, 7)), (9, 13, (3, 4))]
)
def test_a_mask_is_brought_to_the_size_of_attention(
    sd15: Bench, height: int, width: int, grid: tuple[int, int]
) -> None:
    """Bicubic, from its own pixels, whatever the size between; sides that are odd are rounded up when they are halved."""
    mask = torch.rand(1, 64, 96, generator=torch.Generator().manual_seed(0))
    assert grid_of(grid[0] * grid[1], height, width) == grid
    found = asked((height, width, 0, 0), (height, width)).over(sight(sd15, mask), grid[0] * grid[1])
    expected = interpolate(mask[:, None], size=grid, mode="bicubic").flatten(1)[..., None]
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_mask_stays_where_it_is_for_a_prompt_with_an_area(sd15: Bench) -> None:
    """The part of the mask under the area, and for each sample its own; the last for those beyond."""
    mask = torch.arange(2 * 8 * 12).reshape(2, 8, 12).float()
    found = asked((4, 6, 2, 3), (8, 12), samples=3).over(sight(sd15, mask), 24).reshape(3, 4, 6)
    assert torch.allclose(found, mask[[0, 1, 1], 2:6, 3:9], atol=1e-3)


def test_an_area_of_the_prompt_sees_its_part_of_the_mask(sd15: Bench) -> None:
    """A mask of zeros under the area and two cells around it, as far as a cubic reaches, is no picture for a prompt that holds in the area
    alone."""
    _, path = sd15.file("base")
    mask = torch.ones(1, 8, 12)
    mask[:, :, :10] = 0
    with sd15.store.lease(sd15.model) as loaded:
        positive, negative = conditionings(unets.denoiser(loaded))
    inside = [[it, {**options, "area": (8, 8, 0, 0)}] for it, options in positive]
    outside = [[it, {**options, "area": (8, 8, 0, 4)}] for it, options in positive]
    model = sd15.prompted(path, seen("base"), seen("base"), mask=mask)
    for side, is_seen in ((inside, False), (outside, True)):
        found = sd15.sampled(model, cfg=1.0, sides=(side, negative))
        plain = sd15.sampled(sd15.model, cfg=1.0, sides=(side, negative))
        assert (apart(found, plain) > 1e-3) is is_seen


# weights


def test_scalings_on_numbers() -> None:
    """Two pictures of two tokens: width 640 is a half of 1280."""
    key = torch.ones(1, 2, 2, 640)
    value = torch.tensor([1.0, 3.0, 10.0, 30.0]).reshape(1, 2, 2, 1).expand(-1, -1, -1, 640)

    def numbers(scaling: str) -> tuple[float, list[float]]:
        keys, values = scaled(key, value, 4.0, scaling)
        return float(keys[0, 0, 0, 0]), values[0, :, :, 0].flatten().tolist()

    assert numbers("K+V") == (4.0, [4.0, 12.0, 40.0, 120.0])
    each = scaled(torch.ones(2, 1, 1, 3), torch.ones(2, 1, 1, 3), torch.tensor([1.0, 5.0]).reshape(2, 1, 1), "K+V")[0]
    assert each[:, 0, 0, 0].tolist() == [1.0, 5.0]
    assert numbers("K+V w/ C penalty") == (2.0, [2.0, 6.0, 20.0, 60.0])
    # means of 2 and 20, times 2
    assert numbers("K+mean(V) w/ C penalty") == (2.0, [3.0, 5.0, 30.0, 50.0])


def test_scalings_differ_in_sampling(sd15: Bench) -> None:
    """Each its own way; without keys a weight only multiplies what is found."""
    _, path = sd15.file("base")
    found = [
        sd15.sampled(sd15.prompted(path, seen("base"), seen("base"), 0.6, scaling=scaling))
        for scaling in ("V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty")
    ]
    pairs = [(a, b) for n, a in enumerate(found) for b in found[:n]]
    assert all(apart(a, b) > 1e-3 for a, b in pairs)


def weights(benches: dict[str, Bench], family: str, **told: Any) -> list[float]:
    """One weight a transformer."""
    found = Weighing(**{"weight": (2.0,), **told}).of(_config(benches[family]))
    return [round(weight, 6) for (weight,) in found]


def test_easings_go_along_the_way_through_the_unet(benches: dict[str, Bench]) -> None:
    """Of 11 transformers number n is n/11 of the way; a twentieth is left where it is least."""
    ease_in = weights(benches, "sdxl", type="ease in")
    assert ease_in == [round(2 * (0.05 + 0.95 * (1 - n / 11)), 6) for n in range(11)]
    assert weights(benches, "sdxl", type="ease out")[0] == 0.1
    assert weights(benches, "sdxl", type="ease in-out")[:2] == [0.1, round(2 * (0.05 + 0.95 * 2 / 11), 6)]
    assert weights(benches, "sdxl", type="reverse in-out")[0] == 2.0
    assert weights(benches, "sd15", type="ease in-out")[8] == 2.0
    assert weights(benches, "sd15", type="linear") == [2.0] * 16


def test_parts_of_the_unet_are_weakened(benches: dict[str, Bench]) -> None:
    assert weights(benches, "sdxl", type="weak input") == [0.4] * 4 + [2.0] * 7
    assert weights(benches, "sdxl", type="weak middle") == [2.0] * 4 + [0.4] + [2.0] * 6
    assert weights(benches, "sd15", type="weak output") == [2.0] * 7 + [0.4] * 9
    assert weights(benches, "sd15", type="strong middle") == [0.4] * 6 + [2.0] + [0.4] * 9


def test_style_and_composition_come_from_some_transformers(benches: dict[str, Bench]) -> None:
    """SDXL's style from number 6, its composition from 3; Stable Diffusion 1 composes in 4, a quarter, and 5."""
    assert weights(benches, "sdxl", type="style transfer") == [0.0] * 6 + [2.0] + [0.0] * 4
    assert weights(benches, "sdxl", type="composition") == [0.0] * 3 + [2.0] + [0.0] * 7
    assert weights(benches, "sd15", type="composition") == [0.0] * 4 + [0.5, 2.0] + [0.0] * 10
    assert weights(benches, "sd15", type="style transfer") == [2.0] * 4 + [0.0] * 5 + [2.0] * 7
    assert weights(benches, "sd15", type="strong style transfer") == [2.0] * 4 + [0.0] * 2 + [2.0] * 10
    both = weights(benches, "sd15", type="style and composition", composition=4.0)
    assert both == [2.0] * 4 + [1.0, 4.0] + [0.0] * 3 + [2.0] * 7
    assert (
        weights(benches, "sdxl", type="strong style and composition", composition=4.0) == [2.0] * 3 + [4.0] + [2.0] * 7
    )


def test_precise_types_lead_away_from_the_rest(benches: dict[str, Bench]) -> None:
    boosted = weights(benches, "sdxl", type="style transfer precise", style_boost=3.0)
    assert boosted == [0.0] * 3 + [3.0] + [0.0] * 2 + [2.0] + [0.0] * 4
    assert weights(benches, "sdxl", type="style transfer precise")[3] == 2.0
    composed = weights(benches, "sdxl", type="composition precise", composition_boost=3.0)
    assert composed == [0.3] * 3 + [2.0] + [0.3] * 2 + [3.0] + [0.3] * 4
    config = _config(benches["sd15"])
    assert Weighing((1.0,), "style transfer precise").reversed(config) == [4, 5]
    assert Weighing((1.0,), "composition precise").reversed(config) == [n for n in range(16) if n not in (4, 5)]
    assert Weighing((1.0,), "linear").reversed(config) == []


def test_a_reversed_transformer_shows_the_picture_to_the_negative_side(sd15: Bench) -> None:
    """All of them: the positive side sees nothing, so that at a scale of 1 the plain picture comes out, and at 3 another."""
    _, path = sd15.file("base")
    model = sd15.prompted(path, seen("base"), seen("base", seed=1), reversed=list(range(16)))
    assert apart(sd15.sampled(model, cfg=1.0), sd15.sampled(sd15.model, cfg=1.0)) < 1e-4
    swapped = sd15.sampled(model)
    assert apart(swapped, sd15.sampled(sd15.model)) > 1e-3
    other = sd15.prompted(path, seen("base"), seen("base", seed=2), reversed=list(range(16)))
    assert torch.equal(swapped, sd15.sampled(other))


def test_a_transformer_may_see_another_picture(benches: dict[str, Bench]) -> None:
    """Where it alone has a weight, the other picture is all there is."""
    bench = benches["sdxl"]
    _, path = bench.file("base")
    adapter = open_adapter(str(path))
    other = adapter.tokens(seen("base", seed=7), torch.device("cpu"))
    alone = [[1.0] if number == 3 else [0.0] for number in range(11)]
    mixed = bench.prompted(path, seen("base"), seen("base", seed=1), weights=alone, others={3: other})
    expected = bench.prompted(path, seen("base", seed=7), seen("base", seed=1), weights=alone)
    assert torch.equal(bench.sampled(mixed), bench.sampled(expected))


def test_a_streamed_model_sees_the_same(sd15: Bench) -> None:
    """Its weights come block by block; the adapter's are no part of them."""
    from nodes.diffusion.budget import Budget
    from nodes.diffusion.devices import device_policy
    from nodes.diffusion.patches import patcher

    _, path = sd15.file("base")
    model = sd15.prompted(path, seen("base"), seen("base", seed=1))
    policy = device_policy("cpu")
    streaming = replace(sd15, store=LocalModelStore(policy, Budget(1), patcher(policy.device)))
    assert torch.equal(streaming.sampled(model), sd15.sampled(model))
