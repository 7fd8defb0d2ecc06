"""Sampling from parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from engine.graph.builder import Builder
from engine.graph.graph import Graph, NodeId
from engine.registry import Registry
from engine.run.cancel import CancelToken
from engine.run.events import Event, NodePreview, NodeProgress
from engine.run.executor import Executor, Run
from engine.spec import MISSING
from nodes import sampler_parts

SHARED: dict[str, Any] = {"seed": 7, "steps": 4, "cfg": 4.0, "scheduler": "karras"}
Make = Callable[[], Executor]


class Filled:
    """Adds nodes to a graph with the defaults of what is not given."""

    def __init__(self, registry: Registry) -> None:
        self.registry, self.builder = registry, Builder(registry)

    def __getattr__(self, type_: str) -> Callable[..., Any]:
        def add(**given: Any) -> Any:
            inputs = self.registry[type_].inputs
            defaults = {each.name: each.default for each in inputs if each.default is not MISSING}
            return getattr(self.builder, type_)(**{**defaults, **given})

        return add


class Bench:
    """A graph of the demo model under way."""

    def __init__(self, core: Registry) -> None:
        self.w = Filled(core)
        self.model, clip, _ = self.w.CheckpointLoaderSimple(ckpt_name="demo.safetensors")
        self.positive = self.w.CLIPTextEncode(clip=clip, text="a red circle on a blue background")
        self.negative = self.w.CLIPTextEncode(clip=clip, text="")
        self.latent = self.w.EmptyLatentImage(width=64, height=64, batch_size=1)

    def plain(self, **settings: Any) -> Any:
        return self.w.KSampler(
            model=self.model,
            positive=self.positive,
            negative=self.negative,
            latent_image=self.latent,
            **{**SHARED, **settings},
        )

    def sigmas(self, **settings: Any) -> Any:
        return self.w.BasicScheduler(**{"model": self.model, "scheduler": "karras", "steps": 4, **settings})

    def guider(self, cfg: float = 4.0) -> Any:
        return self.w.CFGGuider(model=self.model, positive=self.positive, negative=self.negative, cfg=cfg)

    def advanced(self, **parts: Any) -> Any:
        given = {
            "noise": self.w.RandomNoise(noise_seed=7),
            "guider": self.guider(),
            "sampler": self.w.KSamplerSelect(sampler_name="euler"),
            "sigmas": self.sigmas(),
            "latent_image": self.latent,
        }
        return self.w.SamplerCustomAdvanced(**{**given, **parts})


def values(executor: Executor, graph: Graph, *nodes: Any, output: int = 0) -> list[Tensor]:
    """The latents that came out of nodes."""
    names = tuple(NodeId(node.id) for node in nodes)
    result = executor.run_sync(Run(graph, targets=(), keep=names))
    assert result.status == "succeeded", result.failures
    return [result.values[name][output][0]["samples"] for name in names]


def test_the_same_settings_give_the_same_picture(core: Registry, make_executor: Make) -> None:
    """KSampler, SamplerCustom and SamplerCustomAdvanced agree to the last bit, with and without noise in their steps, with
    CFG++, and where only a part of the noise is taken."""
    bench = Bench(core)
    pairs = []
    for name in ("euler", "dpmpp_2m_sde", "euler_ancestral_cfg_pp", "dpm_fast"):
        sampler = bench.w.KSamplerSelect(sampler_name=name)
        custom = bench.w.SamplerCustom(
            model=bench.model,
            add_noise=True,
            noise_seed=7,
            cfg=4.0,
            positive=bench.positive,
            negative=bench.negative,
            sampler=sampler,
            sigmas=bench.sigmas(),
            latent_image=bench.latent,
        )
        pairs.append((bench.plain(sampler_name=name), custom, bench.advanced(sampler=sampler)))
    half = bench.plain(sampler_name="euler", denoise=0.5)
    pairs.append((half, half, bench.advanced(sigmas=bench.sigmas(denoise=0.5))))
    found = values(make_executor(), bench.w.builder.graph(), *(node for pair in pairs for node in pair))
    for first, second, third in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)
    assert not torch.equal(found[0], found[3])


def test_the_second_output_is_the_last_prediction(core: Registry, make_executor: Make) -> None:
    """After a whole way it is the first output; after a part of it the noise is gone; two parts make the whole."""
    bench = Bench(core)
    high, low = bench.w.SplitSigmas(sigmas=bench.sigmas(), step=2)
    whole, first = bench.advanced(), bench.advanced(sigmas=high)
    second = bench.advanced(noise=bench.w.DisableNoise(), sigmas=low, latent_image=first[0])
    executor = make_executor()
    graph = bench.w.builder.graph()
    ends = values(executor, graph, whole, first, second)
    clean = values(executor, graph, whole, first, second, output=1)
    torch.testing.assert_close(clean[0], ends[0])
    assert float((ends[1] - clean[1]).std()) > 1
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-4, atol=1e-4)


def test_recipes_and_sigmas_come_back_from_disk(core: Registry, make_executor: Make) -> None:
    """A new process that finds the parts on disk, but not the sampling, gives the same latent."""
    bench = Bench(core)
    sampled = bench.advanced(
        sampler=bench.w.SamplerDPMPP_2M_SDE(solver_type="heun", eta=0.5, s_noise=0.9, noise_device="cpu"),
        guider=bench.w.PerpNegGuider(
            model=bench.model,
            positive=bench.positive,
            negative=bench.negative,
            empty_conditioning=bench.negative,
            cfg=3.0,
            neg_scale=1.0,
        ),
    )
    graph = bench.w.builder.graph()
    (first,) = values(make_executor(), graph, sampled)
    (again,) = values(make_executor(), graph, sampled)
    assert torch.equal(first, again)
    assert float(first.std()) > 0.1


def test_a_cancelled_sampling_goes_on_where_it_stopped(core: Registry, make_executor: Make) -> None:
    """Progress is told step by step, with previews; cancelled after two steps, the next run makes the others."""
    bench = Bench(core)
    sampled = bench.advanced(sampler=bench.w.KSamplerSelect(sampler_name="euler_ancestral"))
    graph, node = bench.w.builder.graph(), NodeId(sampled.id)
    token = CancelToken()
    heard: list[Event] = []

    def stop(event: Event) -> None:
        heard.append(event)
        if isinstance(event, NodeProgress) and event.node == node and event.done == 2:
            token.cancel()

    run = Run(graph, targets=(), keep=(node,), previews=True)
    assert make_executor().run_sync(run, stop, cancel=token).status == "cancelled"
    assert any(isinstance(event, NodePreview) for event in heard)
    steps: list[tuple[int, int]] = []

    def count(event: Event) -> None:
        if isinstance(event, NodeProgress) and event.node == node:
            steps.append((event.done, event.total))

    result = make_executor().run_sync(run, count)
    # The run may have been a step ahead of who cancelled it.
    assert steps in ([(3, 4), (4, 4)], [(4, 4)])
    whole = make_executor().run_sync(Run(graph, targets=(), keep=(node,), use_cache=False))
    assert torch.equal(result.values[node][0][0]["samples"], whole.values[node][0][0]["samples"])


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_sampling_may_enlarge_the_latent(core: Registry, make_executor: Make, scale: float) -> None:
    """SamplerLCMUpscale gives a latent of another size."""
    bench = Bench(core)
    upscale = bench.w.SamplerLCMUpscale(scale_ratio=scale, scale_steps=-1, upscale_method="bislerp")
    node = bench.advanced(sampler=upscale)
    (found,) = values(make_executor(), bench.w.builder.graph(), node)
    assert found.shape == (1, 4, round(8 * scale), round(8 * scale))
    assert found.isfinite().all()


def test_noise_may_be_added_beforehand(core: Registry, make_executor: Make) -> None:
    """Empty latents get the seed's noise, as high as the way is long; the sigmas of a model are as they should be."""
    bench = Bench(core)
    noisy = bench.w.AddNoise(
        model=bench.model,
        noise=bench.w.RandomNoise(noise_seed=7),
        sigmas=bench.sigmas(),
        latent_image=bench.latent,
    )
    (found,) = values(make_executor(), bench.w.builder.graph(), noisy)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(found * 0.18215 / 14.614641, noise, rtol=1e-4, atol=1e-4)


def test_guidance_between_sides_that_agree_is_none(core: Registry, make_executor: Make) -> None:
    """BasicGuider is CFGGuider at 1; two equal conditions in DualCFGGuider are one in CFGGuider."""
    bench = Bench(core)
    dual = bench.w.DualCFGGuider(
        model=bench.model,
        cond1=bench.positive,
        cond2=bench.positive,
        negative=bench.negative,
        cfg_conds=5.0,
        cfg_cond2_negative=4.0,
        style="regular",
    )
    guiders = bench.w.BasicGuider(model=bench.model, conditioning=bench.positive), bench.guider(1.0), dual
    nodes = [*(bench.advanced(guider=guider) for guider in guiders), bench.advanced()]
    found = values(make_executor(), bench.w.builder.graph(), *nodes)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[2], found[3], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], found[2], atol=1e-2)


def test_options_of_a_model_count_in_every_sampling(core: Registry, make_executor: Make) -> None:
    """In KSampler as in parts: without an effect they change nothing, with one they do; levels are the model's."""
    bench = Bench(core)
    own = bench.model
    plain = bench.plain(sampler_name="euler")
    found: list[Any] = [plain]
    for factor in (1.0, 1.4):
        bench.model = getattr(bench.w, "Epsilon Scaling")(model=own, scaling_factor=factor)
        found += [bench.plain(sampler_name="euler"), bench.advanced()]
    bench.model = own
    # A model that ends without any signal begins at a far higher sigma.
    whole = bench.w.ModelSamplingDiscrete(model=own, sampling="eps", zsnr=True)
    percent = bench.w.SamplingPercentToSigma(model=whole, sampling_percent=0.0, return_actual_sigma=True)
    graph = bench.w.builder.graph()
    executor = make_executor()
    first, same, same_parts, other, other_parts = values(executor, graph, *found)
    torch.testing.assert_close(same, first, rtol=1e-3, atol=1e-3)
    assert torch.equal(same_parts, same)
    assert torch.equal(other_parts, other)
    assert float((other - first).abs().mean()) > 0.1
    kept = NodeId(percent.id)
    highest = executor.run_sync(Run(graph, targets=(), keep=(kept,))).values[kept][0][0]
    assert highest == pytest.approx(4518.76, rel=1e-3)


@pytest.mark.parametrize(
    "node",
    [
        ("SamplerEulerAncestral", {}),
        ("SamplerEulerAncestralCFGPP", {}),
        ("SamplerEulerCFGpp", {"version": "regular"}),
        ("SamplerEulerCFGpp", {"version": "alternative"}),
        ("SamplerLMS", {}),
        ("SamplerDPMPP_3M_SDE", {"noise_device": "gpu"}),
        ("SamplerDPMPP_SDE", {"noise_device": "cpu", "r": 0.3}),
        ("SamplerDPMPP_2S_Ancestral", {"eta": 0.5}),
        ("SamplerDPMAdaptative", {}),
        ("SamplerER_SDE", {"solver_type": "Reverse-time SDE", "eta": 0.5}),
        ("SamplerSASolver", {"use_pece": True, "simple_order_2": True, "predictor_order": 2, "corrector_order": 2}),
    ],
    ids=lambda node: node[0],
)
def test_every_sampler_in_parts_makes_a_picture(core: Registry, shared: Executor, node: tuple[str, Any]) -> None:
    """Each recipe is understood by the sampling: the latent is of the size of a picture's, not of noise."""
    bench = Bench(core)
    given = {"model": bench.model, **node[1]} if node[0] == "SamplerSASolver" else node[1]
    sampled = bench.advanced(sampler=getattr(bench.w, node[0])(**given), sigmas=bench.sigmas(steps=10))
    (found,) = values(shared, bench.w.builder.graph(), sampled, output=1)
    assert found.shape == (1, 4, 8, 8)
    assert 0.5 < float(found.std()) * 0.18215 < 2


@pytest.fixture(scope="module")
def shared(core: Registry, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An executor for tests that leave nothing behind, so that the model is loaded once."""
    from engine.files import open_files
    from engine.run.cache import OutputCache
    from engine.run.outputs import OutputFolder
    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("shared")
    places = {kind: folder / kind for kind in ("input", "output", "temp")}
    files = open_files(models=[ROOT / "models"], state=folder / "state", **places)
    outputs = OutputFolder(folder / "output", folder / "temp")
    executor = Executor(core, files=files, cache=OutputCache(), outputs=outputs, numerics="test")
    yield executor
    executor.close()


def test_a_second_evaluation_at_the_beginning_of_a_step_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected an r above 0, found 0\.0") as caught:
        sampler_parts.sampler_dpmpp_sde(r=0.0, noise_device="cpu")
    assert caught.value.input == "r"
