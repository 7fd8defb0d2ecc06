"""Samplers, noises and guiders in parts. Each node gives a recipe; SamplerCustom and its like make what it says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from engine.errors import InputError
from engine.models import Recipe
from engine.run.context import NodeContext
from engine.spec import Choices, Output, Range, Seed, node
from nodes import diffusion
from nodes.diffusion.names import SAMPLER_NAMES
from nodes.sockets import Conditioning, Latent, Model, Noise, Sigmas
from nodes.widgets import Cfg, Percent

SAMPLERS = "sampling/custom_sampling/samplers"
GUIDERS = "sampling/custom_sampling/guiders"
NOISES = "sampling/custom_sampling/noise"

Amount = Annotated[float, Range(0.0, 100.0, step=0.01, round=False)]
NoiseDevice = Literal["gpu", "cpu"]


def _on(device: str, name: str) -> str:
    """The name of a sampler whose noise is drawn there."""
    return name if device == "cpu" else f"{name}_gpu"


@node("KSamplerSelect", category=SAMPLERS, outputs=[Output("SAMPLER")])
def k_sampler_select(sampler_name: Annotated[str, Choices(SAMPLER_NAMES)]) -> Recipe:
    """A sampler by its name."""
    return diffusion.custom.sampler(sampler_name)


@node("SamplerEulerAncestral", category=SAMPLERS, outputs=[Output("SAMPLER")])
def sampler_euler_ancestral(eta: Amount = 1.0, s_noise: Amount = 1.0) -> Recipe:
    """Euler steps with noise added: eta says how much of the way is noise's, s_noise scales it."""
    return diffusion.custom.sampler("euler_ancestral", eta=eta, s_noise=s_noise)


@node("SamplerEulerAncestralCFGPP", title="SamplerEulerAncestralCFG++", category=SAMPLERS, outputs=[Output("SAMPLER")])
def sampler_euler_ancestral_cfgpp(
    eta: Annotated[float, Range(0.0, 1.0, step=0.01, round=False)] = 1.0,
    s_noise: Annotated[float, Range(0.0, 10.0, step=0.01, round=False)] = 1.0,
) -> Recipe:
    """SamplerEulerAncestral with the noise of the unconditional prediction."""
    return diffusion.custom.sampler("euler_ancestral_cfg_pp", eta=eta, s_noise=s_noise)


@node(
    "SamplerEulerCFGpp",
    title="SamplerEulerCFG++",
    category="_for_testing",
    outputs=[Output("SAMPLER")],
    experimental=True,
)
def sampler_euler_cfgpp(version: Literal["regular", "alternative"]) -> Recipe:
    """Euler steps with the noise of the unconditional prediction; the alternative guides the last step a second time."""
    return diffusion.custom.sampler("euler_cfg_pp" if version == "regular" else "euler_twice_guided")


@node("SamplerLMS", category=SAMPLERS, outputs=[Output("SAMPLER")])
def sampler_lms(order: Annotated[int, Range(1, 100)] = 4) -> Recipe:
    """Linear multistep through the last slopes, as many as order says."""
    return diffusion.custom.sampler("lms", order=order)


@node("SamplerDPMPP_3M_SDE", category=SAMPLERS, outputs=[Output("SAMPLER")])
def sampler_dpmpp_3m_sde(*, eta: Amount = 1.0, s_noise: Amount = 1.0, noise_device: NoiseDevice) -> Recipe:
    """DPM-Solver++(3M) for the noisy way."""
    return diffusion.custom.sampler(_on(noise_device, "dpmpp_3m_sde"), eta=eta, s_noise=s_noise)


@node("SamplerDPMPP_2M_SDE", category=SAMPLERS, outputs=[Output("SAMPLER")])
def sampler_dpmpp_2m_sde(
    *, solver_type: Literal["midpoint", "heun"], eta: Amount = 1.0, s_noise: Amount = 1.0, noise_device: NoiseDevice
) -> Recipe:
    """DPM-Solver++(2M) for the noisy way."""
    return diffusion.custom.sampler(_on(noise_device, "dpmpp_2m_sde"), solver=solver_type, eta=eta, s_noise=s_noise)


@node("SamplerDPMPP_SDE", category=SAMPLERS, outputs=[Output("SAMPLER")])
def sampler_dpmpp_sde(
    *, eta: Amount = 1.0, s_noise: Amount = 1.0, r: Amount = 0.5, noise_device: NoiseDevice
) -> Recipe:
    """DPM-Solver++ in single steps for the noisy way; r says where in a step the second evaluation lies."""
    if r <= 0:
        raise InputError(f"expected an r above 0, found {r}: the second evaluation lies inside the step", input="r")
    return diffusion.custom.sampler(_on(noise_device, "dpmpp_sde"), eta=eta, s_noise=s_noise, r=r)


@node("SamplerDPMPP_2S_Ancestral", category=SAMPLERS, outputs=[Output("SAMPLER")])
def sampler_dpmpp_2s_ancestral(eta: Amount = 1.0, s_noise: Amount = 1.0) -> Recipe:
    """DPM-Solver++(2S) with noise added."""
    return diffusion.custom.sampler("dpmpp_2s_ancestral", eta=eta, s_noise=s_noise)


@node("SamplerDPMAdaptative", category=SAMPLERS, outputs=[Output("SAMPLER")])
def sampler_dpm_adaptative(
    order: Annotated[int, Range(2, 3)] = 3,
    rtol: Amount = 0.05,
    atol: Amount = 0.0078,
    h_init: Amount = 0.05,
    pcoeff: Amount = 0.0,
    icoeff: Amount = 1.0,
    dcoeff: Amount = 0.0,
    accept_safety: Amount = 0.81,
    eta: Amount = 0.0,
    s_noise: Amount = 1.0,
) -> Recipe:
    """DPM-Solver with steps as wide as the tolerance allows; only the ends of the sigmas count."""
    steps = {"h_init": h_init, "pcoeff": pcoeff, "icoeff": icoeff, "dcoeff": dcoeff, "accept_safety": accept_safety}
    return diffusion.custom.sampler(
        "dpm_adaptive", order=order, rtol=rtol, atol=atol, eta=eta, s_noise=s_noise, **steps
    )


@node("SamplerER_SDE", category=SAMPLERS, outputs=[Output("SAMPLER")])
def sampler_er_sde(
    *,
    solver_type: Literal["ER-SDE", "Reverse-time SDE", "ODE"],
    max_stage: Annotated[int, Range(1, 3)] = 3,
    eta: Amount = 1.0,
    s_noise: Amount = 1.0,
) -> Recipe:
    """Extended reverse-time SDE; eta counts for the reverse-time SDE alone."""
    return diffusion.custom.sampler("er_sde", kind=solver_type, max_stage=max_stage, eta=eta, s_noise=s_noise)


@node("SamplerSASolver", category=SAMPLERS, outputs=[Output("SAMPLER")])
def sampler_sa_solver(
    *,
    model: Model,
    eta: Annotated[float, Range(0.0, 10.0, step=0.01, round=False)] = 1.0,
    sde_start_percent: Percent = 0.2,
    sde_end_percent: Percent = 0.8,
    s_noise: Amount = 1.0,
    predictor_order: Annotated[int, Range(1, 6)] = 3,
    corrector_order: Annotated[int, Range(0, 6)] = 4,
    use_pece: bool,
    simple_order_2: bool,
) -> Recipe:
    """Stochastic Adams solver, noisy between two shares of the model's way.

    PECE asks the model again at every corrected sample.
    """
    levels = diffusion.unet.levels(model)
    percents = sde_start_percent, sde_end_percent
    return diffusion.custom.sampler(
        "sa_solver",
        interval=tuple(levels.percent_to_sigma(percent) for percent in percents),
        predictor=predictor_order,
        corrector=corrector_order,
        pece=use_pece,
        simple=simple_order_2,
        eta=eta,
        s_noise=s_noise,
    )


@node("SamplerLCMUpscale", category=SAMPLERS, outputs=[Output("SAMPLER")])
def sampler_lcm_upscale(
    *,
    scale_ratio: Annotated[float, Range(0.1, 20.0, step=0.01)] = 1.0,
    scale_steps: Annotated[int, Range(-1, 1000, step=1)] = -1,
    upscale_method: Literal["bislerp", "nearest-exact", "bilinear", "area", "bicubic"],
) -> Recipe:
    """LCM steps that enlarge the latent on their way; -1 steps are half of them."""
    return diffusion.custom.sampler("lcm_upscale", scale=scale_ratio, steps=scale_steps, method=upscale_method)


@node("RandomNoise", category=NOISES, outputs=[Output("NOISE")])
def random_noise(noise_seed: Annotated[int, Range(0, 2**64 - 1), Seed()] = 0) -> Recipe:
    """The noise of a seed."""
    return diffusion.custom.noise(noise_seed)


@node("DisableNoise", category=NOISES, outputs=[Output("NOISE")])
def disable_noise() -> Recipe:
    """No noise: the latent is sampled as it is."""
    return diffusion.custom.noise(None)


@node("AddNoise", category="_for_testing/custom_sampling/noise", outputs=[Output("LATENT")])
def add_noise(ctx: NodeContext, *, model: Model, noise: Noise, sigmas: Sigmas, latent_image: Latent) -> dict[str, Any]:
    """The latent with as much noise as lies between the first and the last sigma."""
    with ctx.models.lease(model) as loaded:
        return diffusion.custom.add_noise(diffusion.unet.denoiser(loaded), noise, sigmas, latent_image)


@node("BasicGuider", category=GUIDERS, outputs=[Output("GUIDER")])
def basic_guider(model: Model, conditioning: Conditioning) -> Recipe:
    """The model under one condition, without guidance."""
    return diffusion.custom.guider("basic", model, {"positive": conditioning})


@node("CFGGuider", category=GUIDERS, outputs=[Output("GUIDER")])
def cfg_guider(*, model: Model, positive: Conditioning, negative: Conditioning, cfg: Cfg = 8.0) -> Recipe:
    """Classifier-free guidance away from the negative condition."""
    return diffusion.custom.guider("cfg", model, {"positive": positive, "negative": negative}, scale=cfg)


@node("DualCFGGuider", category=GUIDERS, outputs=[Output("GUIDER")])
def dual_cfg_guider(
    *,
    model: Model,
    cond1: Conditioning,
    cond2: Conditioning,
    negative: Conditioning,
    cfg_conds: Cfg = 8.0,
    cfg_cond2_negative: Cfg = 8.0,
    style: Literal["regular", "nested"],
) -> Recipe:
    """Guidance from the negative to the second condition, and from there to the first."""
    sides = {"first": cond1, "second": cond2, "negative": negative}
    numbers = {"inner": cfg_conds, "outer": cfg_cond2_negative, "nested": style == "nested"}
    return diffusion.custom.guider("dual_cfg", model, sides, **numbers)


@node("PerpNegGuider", category="_for_testing", outputs=[Output("GUIDER")], experimental=True)
def perp_neg_guider(
    *,
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    empty_conditioning: Conditioning,
    cfg: Cfg = 8.0,
    neg_scale: Annotated[float, Range(0.0, 100.0, step=0.01)] = 1.0,
) -> Recipe:
    """Guidance away from that part of the negative condition alone which says nothing of the positive one."""
    sides = {"positive": positive, "negative": negative, "empty": empty_conditioning}
    return diffusion.custom.guider("perp_neg", model, sides, scale=cfg, negative_scale=neg_scale)
