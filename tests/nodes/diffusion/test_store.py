"""Leases give models as the file has them, one at a time, and read nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.random_sd15 import write
from engine.errors import InputError, MissingFile, ModelFileError, UsageError
from engine.models import Digest, ModelRef, Part, Patch
from engine.run.settings import DeviceSettings
from nodes.diffusion.budget import Budget
from nodes.diffusion.configs import PartConfig, VaeConfig
from nodes.diffusion.devices import device_policy
from nodes.diffusion.store import LoadedModel, LocalModelStore, make_store
from tests.nodes.diffusion.conftest import DEMO, MakeRef
from tests.nodes.diffusion.test_families import TINY

PLENTY = Budget(1 << 40)


@pytest.fixture
def store() -> LocalModelStore:
    return LocalModelStore(device_policy("cpu"), PLENTY)


def run(model: LoadedModel) -> Tensor:
    """What a UNet makes of fixed inputs."""
    draw = torch.Generator().manual_seed(0)
    width: int = model.config.context_dim  # type: ignore[union-attr, assignment]
    x, context = torch.randn(1, 4, 8, 8, generator=draw), torch.randn(1, 7, width, generator=draw)
    with torch.inference_mode():
        output: Tensor = model.module(
            x.to(model.dtype), torch.tensor([500.0]), context.to(model.dtype), return_dict=False
        )[0]
    return output


def leased(store: LocalModelStore, ref: ModelRef, **options: Any) -> Tensor:
    with store.lease(ref, **options) as model:
        return run(model)


def test_lease_gives_the_weights_of_the_file(store: LocalModelStore, demo: MakeRef) -> None:
    """The leased network holds the file's numbers in the run's dtype, and the facts that go with them."""
    with store.lease(demo("vae")) as vae:
        stored = load_file(DEMO)["first_stage_model.encoder.conv_in.weight"]
        assert torch.equal(vae.module.get_parameter("encoder.conv_in.weight"), stored.float())
        assert (vae.dtype, vae.device.type, vae.facts.scale_factor, vae.facts.downscale) == (
            torch.float32,
            "cpu",
            0.18215,
            8,
        )
        assert isinstance(vae.config, VaeConfig)
        assert not any(parameter.requires_grad for parameter in vae.module.parameters())


def test_second_lease_reads_and_loads_nothing(store: LocalModelStore, demo: MakeRef) -> None:
    """A model stays loaded between leases, and settings of a recipe make no other model of it."""
    first = leased(store, demo("unet"))
    second = leased(store, demo("unet").with_settings(some_setting=-2))
    assert torch.equal(first, second)
    assert (store.counters.reads, store.counters.loads) == (1, 1)


def test_float32_file_is_not_copied(tmp_path: Path, store: LocalModelStore) -> None:
    """On the CPU, weights stored in the run's dtype are the mapped file itself."""
    path = tmp_path / "tiny.safetensors"
    write(path, TINY, "float32")
    with store.lease(ModelRef(Digest("tiny"), "unet", str(path))) as model:
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line}
        addresses = [parameter.data_ptr() for parameter in model.module.parameters()]
        ranges = [
            tuple(int(end, 16) for end in line.split()[0].split("-"))
            for line in Path("/proc/self/maps").read_text().splitlines()
            if str(path) in line
        ]
    assert mapped
    assert all(any(start <= address < end for start, end in ranges) for address in addresses)


def spoil_weight(module: nn.Module) -> None:
    with torch.no_grad():
        next(module.parameters()).mul_(2)


def spoil_dtype(module: nn.Module) -> None:
    module.to(torch.bfloat16)


def spoil_hook(module: nn.Module) -> None:
    next(module.children()).register_forward_hook(lambda _module, _inputs, output: output * 2)


def spoil_parameter(module: nn.Module) -> None:
    convolution: Any = module.get_submodule("conv_in")
    convolution.weight = nn.Parameter(torch.zeros_like(convolution.weight))


def spoil_mode(module: nn.Module) -> None:
    module.train()


@pytest.mark.parametrize("spoil", [spoil_weight, spoil_dtype, spoil_hook, spoil_parameter, spoil_mode])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_nothing_done_under_a_lease_is_seen_by_the_next(
    tmp_path: Path, store: LocalModelStore, spoil: Any, dtype: Any
) -> None:
    """A module that comes back changed, in whatever way, is made anew from the untouched file."""
    path = tmp_path / "tiny.safetensors"
    write(path, TINY, dtype)
    before = path.read_bytes()
    ref = ModelRef(Digest("tiny"), "unet", str(path))
    pristine = leased(store, ref)
    with store.lease(ref) as model:
        spoil(model.module)
    assert torch.equal(leased(store, ref), pristine)
    assert store.counters.reads == 2
    assert path.read_bytes() == before


def test_lease_is_exclusive(store: LocalModelStore, demo: MakeRef) -> None:
    """A second lease of the same weights waits for the first; in the same thread it is an error, not a hang."""
    order: list[str] = []

    def second() -> None:
        with store.lease(demo("vae")):
            order.append("second")

    with store.lease(demo("vae")):
        thread = threading.Thread(target=second)
        thread.start()
        with pytest.raises(RuntimeError, match="one lease"), store.lease(demo("vae")):
            pass
        with store.lease(demo("clip")):
            order.append("other part")
        order.append("first")
    thread.join(timeout=60)
    assert order == ["other part", "first", "second"]


def sizes(store: LocalModelStore, *refs: ModelRef) -> list[int]:
    for ref in refs:
        with store.lease(ref):
            pass
    return [resident.nbytes for resident in store.resident()]


def test_unused_model_is_evicted_and_comes_back(demo: MakeRef) -> None:
    """What the budget cannot hold beside the next model leaves the device, and is loaded again without a read."""
    measured = LocalModelStore(device_policy("cpu"), PLENTY)
    unet, clip = sizes(measured, demo("unet"), demo("clip"))
    store = LocalModelStore(device_policy("cpu"), Budget(max(unet, clip) + 1000))
    first = leased(store, demo("unet"))
    with store.lease(demo("clip")):
        assert [resident.key.part for resident in store.resident()] == ["clip"]
    assert torch.equal(leased(store, demo("unet")), first)
    assert (store.counters.reads, store.counters.loads) == (2, 3)


def test_leased_model_is_not_evicted(demo: MakeRef) -> None:
    """While one model is leased, another that does not fit beside it is streamed."""
    measured = LocalModelStore(device_policy("cpu"), PLENTY)
    unet, clip = sizes(measured, demo("unet"), demo("clip"))
    store = LocalModelStore(device_policy("cpu"), Budget(unet + clip - 1000))
    with store.lease(demo("unet")), store.lease(demo("clip")):
        assert {resident.key.part for resident in store.resident()} == {"unet", "clip"}
        assert sum(resident.nbytes for resident in store.resident()) < unet + clip


@pytest.mark.parametrize("part", ["unet", "vae", "clip"])
def test_streamed_model_computes_the_same_bits(demo: MakeRef, part: Part) -> None:
    """A model that does not fit at all runs block by block with bit-equal results, and holds no weights between calls."""
    resident = LocalModelStore(device_policy("cpu"), PLENTY)
    streamed = LocalModelStore(device_policy("cpu"), Budget(1))
    draw = torch.Generator().manual_seed(1)
    latent = torch.randn(1, 4, 8, 8, generator=draw)
    ids = torch.randint(0, 49408, (1, 77), generator=draw)

    def use(model: LoadedModel) -> Tensor:
        with torch.inference_mode():
            if part == "unet":
                return run(model)
            module: Any = model.module
            result: Tensor = (
                module.decode(latent, return_dict=False)[0] if part == "vae" else module.get_submodule("l")(ids)
            )
            return result

    with resident.lease(demo(part)) as model:
        expected = use(model)
    for _ in range(2):
        with streamed.lease(demo(part)) as model:
            assert torch.equal(use(model), expected)
            assert all(parameter.is_meta for parameter in model.module.parameters())
    assert (streamed.counters.reads, streamed.counters.loads) == (1, 1)


def test_streaming_ends_when_there_is_room(demo: MakeRef) -> None:
    """A model streamed for the sake of much working memory is resident again for the next, modest lease."""
    store = LocalModelStore(device_policy("cpu"), Budget(50_000_000))
    expected = leased(store, demo("unet"))
    assert torch.equal(leased(store, demo("unet"), working_bytes=45_000_000), expected)
    assert store.resident()[0].nbytes < 5_000_000
    assert torch.equal(leased(store, demo("unet")), expected)
    assert (store.counters.reads, store.counters.loads) == (1, 3)


def test_evict_all_spares_the_leased(store: LocalModelStore, demo: MakeRef) -> None:
    """Freeing memory takes everything off the device but what is in use."""
    with store.lease(demo("vae")):
        pass
    with store.lease(demo("clip")):
        store.evict_all()
        assert [resident.key.part for resident in store.resident()] == ["clip"]


def double_first(
    ref: ModelRef, config: PartConfig, module: nn.Module, weights: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """A patcher: the first convolution, times the sum of strengths."""
    name = "conv_in.weight"
    return {name: weights[name].float() * sum(patch.strength for patch in ref.patches)}


def test_patches_are_made_from_pristine_weights(demo: MakeRef) -> None:
    """Patched and plain recipes are models of their own, whatever is leased before, resident or streamed."""
    patched = replace(demo("unet"), patches=(Patch("double", Digest("p"), 2.0, "nowhere"),))
    with LocalModelStore(device_policy("cpu"), PLENTY).lease(demo("unet")) as model:
        plain = model.module.get_parameter("conv_in.weight").clone()
    results = []
    for budget in (PLENTY, Budget(1)):
        store = LocalModelStore(device_policy("cpu"), budget, double_first)
        results += [leased(store, patched), leased(store, demo("unet")), leased(store, patched)]
    assert all(torch.equal(result, results[0]) for result in (results[2], results[3], results[5]))
    assert torch.equal(results[1], results[4])
    assert not torch.equal(results[0], results[1])
    store = LocalModelStore(device_policy("cpu"), PLENTY, double_first)
    with store.lease(patched) as model:
        assert torch.equal(model.module.get_parameter("conv_in.weight"), plain * 2)


def test_patches_without_patcher_are_refused(store: LocalModelStore, demo: MakeRef) -> None:
    """A store that cannot patch says so instead of giving an unpatched model."""
    ref = replace(demo("unet"), patches=(Patch("lora", Digest("p"), 1.0, "nowhere"),))
    with pytest.raises(InputError, match="lora"), store.lease(ref):
        pass


def test_missing_and_partial_sources(store: LocalModelStore, tmp_path: Path) -> None:
    """A source that is gone, or lacks the part, is an error that leaves the store usable."""
    with pytest.raises(MissingFile), store.lease(ModelRef(Digest("x"), "unet", str(tmp_path / "none.safetensors"))):
        pass
    vae = {name: tensor for name, tensor in load_file(DEMO).items() if name.startswith("first_stage_model.")}
    save_file(vae, tmp_path / "vae.safetensors")
    ref = ModelRef(Digest("v"), "vae", str(tmp_path / "vae.safetensors"))
    with pytest.raises(ModelFileError, match="found only a VAE"), store.lease(replace(ref, part="unet")):
        pass
    with store.lease(ref) as model:
        assert model.facts.latent_channels == 4


def test_bfloat16_on_the_cpu(demo: MakeRef) -> None:
    """The CPU runs in bfloat16 when asked to, close to float32."""
    store = LocalModelStore(device_policy("cpu", "bfloat16"), PLENTY)
    with store.lease(demo("unet")) as model:
        assert model.dtype == torch.bfloat16
        half = run(model).float()
    full = leased(LocalModelStore(device_policy("cpu"), PLENTY), demo("unet"))
    assert (half - full).abs().mean() < 0.02 * full.abs().mean() + 0.01


def test_store_of_settings() -> None:
    """The settings of a process make a store with their device, dtypes and budget, or say what is wrong with them."""
    store = make_store(DeviceSettings(device="cpu", dtype="bfloat16", vram_budget="3GB"))
    assert (store.policy.device.type, store.policy.dtype("vae"), store.budget.total) == (
        "cpu",
        torch.bfloat16,
        3 * 10**9,
    )
    for settings in (DeviceSettings(device="gpu"), DeviceSettings(device="cpu", dtype="int4")):
        with pytest.raises(UsageError):
            make_store(settings)


@pytest.mark.gpu
def test_gpu_agrees_with_the_cpu(demo: MakeRef) -> None:
    """On a GPU, resident and streamed, a UNet gives what it gives on the CPU, within half precision."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    expected = leased(LocalModelStore(device_policy("cpu"), PLENTY), demo("unet"))
    outputs = []
    for budget in (PLENTY, Budget(1)):
        with LocalModelStore(device_policy("cuda"), budget).lease(demo("unet")) as model, torch.inference_mode():
            draw = torch.Generator().manual_seed(0)
            x, context = torch.randn(1, 4, 8, 8, generator=draw), torch.randn(1, 7, 64, generator=draw)
            inputs = [value.to(model.device, model.dtype) for value in (x, context)]
            time = torch.tensor([500.0], device=model.device)
            outputs.append(model.module(inputs[0], time, inputs[1], return_dict=False)[0].float().cpu())
    assert torch.equal(outputs[0], outputs[1])
    assert (outputs[0] - expected).abs().max() < 0.05


def test_what_was_derived_lasts_as_long_as_the_weights_are_known(store: LocalModelStore, demo: MakeRef) -> None:
    """Later leases of the same weights find it, evicted or not; a model that came back changed loses it."""
    with store.lease(demo("vae")) as model:
        model.derived["preview"] = 1
    store.evict_all()
    with store.lease(demo("vae")) as model:
        assert model.derived == {"preview": 1}
        with torch.no_grad():
            model.module.get_parameter("decoder.conv_in.bias").add_(1)
    with store.lease(demo("vae")) as model:
        assert model.derived == {}
