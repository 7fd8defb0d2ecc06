"""Every form of a small change does to a weight what its paper says, worked out in another way."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nodes.diffusion.lora_forms import BIAS_FORMS, WEIGHT_FORMS, attempt

STRENGTH = 0.7
ALPHA = torch.tensor(3.0)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def changed(weight: Tensor, parts: Mapping[str, Tensor], strength: float = STRENGTH) -> Tensor:
    """All forms that ``parts`` make up, in order."""
    before = weight.clone()
    result = weight
    for form in (*WEIGHT_FORMS, *BIAS_FORMS):
        if form.needs <= parts.keys():
            result = form.apply(
                result, {role: parts[role] for role in parts if role in form.needs | form.may}, strength
            )
    assert torch.equal(weight, before)
    return result


def close(found: Tensor, expected: Tensor) -> bool:
    return bool(torch.allclose(found, expected, atol=1e-5, rtol=1e-4))


def test_lora_adds_a_narrow_layer_beside_the_layer() -> None:
    """The outputs are those of the layer and, scaled by alpha over rank, of two thin layers in a row; without alpha the factor is 1."""
    weight, down, up, x = draw(6, 5), draw(2, 5), draw(6, 2), draw(3, 5, seed=9)
    beside = functional.linear(functional.linear(x, down), up)
    scaled = changed(weight, {"up": up, "down": down, "alpha": ALPHA})
    assert close(functional.linear(x, scaled), functional.linear(x, weight) + STRENGTH * 3 / 2 * beside)
    plain = changed(weight, {"up": up, "down": down})
    assert close(functional.linear(x, plain), functional.linear(x, weight) + STRENGTH * beside)


def test_lora_of_a_convolution_is_two_convolutions_and_with_a_middle_three() -> None:
    """The kernel sits in the first of two layers, or in the one between two 1x1 layers."""
    weight, x = draw(4, 3, 3, 3), draw(1, 3, 7, 7)
    plain = functional.conv2d(x, weight)
    down, up = draw(2, 3, 3, 3), draw(4, 2, 1, 1)
    found = functional.conv2d(x, changed(weight, {"up": up, "down": down, "alpha": ALPHA}))
    assert close(found, plain + STRENGTH * 1.5 * functional.conv2d(functional.conv2d(x, down), up))
    thin, middle = draw(2, 3, 1, 1), draw(2, 2, 3, 3)
    found = functional.conv2d(x, changed(weight, {"up": up, "down": thin, "mid": middle, "alpha": ALPHA}))
    three = functional.conv2d(functional.conv2d(functional.conv2d(x, thin), middle), up)
    assert close(found, plain + STRENGTH * 1.5 * three)


def test_loha_multiplies_two_products_elementwise() -> None:
    """Every entry is the product of two sums over the rank; with cores the sums run over both of a core's ranks."""
    parts = {f"hada_{name}": draw(*shape, seed=n) for n, (name, shape) in enumerate(
        {"w1_a": (4, 2), "w1_b": (2, 5), "w2_a": (4, 2), "w2_b": (2, 5)}.items())}  # fmt: skip
    expected = torch.tensor(
        [
            [
                math.prod(
                    sum(float(parts[f"hada_w{n}_a"][o, r] * parts[f"hada_w{n}_b"][r, i]) for r in range(2))
                    for n in (1, 2)
                )
                for i in range(5)
            ]
            for o in range(4)
        ]
    )
    weight = draw(4, 5, seed=7)
    assert close(changed(weight, parts | {"alpha": ALPHA}), weight + STRENGTH * 1.5 * expected)


def test_loha_about_cores_is_a_product_of_tucker_kernels() -> None:
    """Each kernel is one that three convolutions in a row would have: 1x1, core, 1x1."""
    weight = draw(4, 5, 3, 3)
    parts = {"hada_w1_a": draw(2, 4), "hada_w1_b": draw(2, 5), "hada_t1": draw(2, 2, 3, 3),
             "hada_w2_a": draw(2, 4, seed=1), "hada_w2_b": draw(2, 5, seed=1), "hada_t2": draw(2, 2, 3, 3, seed=1)}  # fmt: skip
    x = torch.eye(5 * 9).reshape(45, 5, 3, 3)  # one picture for each entry of a kernel

    def kernel(n: int) -> Tensor:
        first = functional.conv2d(x, parts[f"hada_w{n}_b"][:, :, None, None])
        core = functional.conv2d(first, parts[f"hada_t{n}"])
        last = functional.conv2d(core, parts[f"hada_w{n}_a"].T[:, :, None, None])
        return last.reshape(45, 4).T.reshape(4, 5, 3, 3)

    assert close(changed(weight, parts), weight + STRENGTH * kernel(1) * kernel(2))


@pytest.mark.parametrize("first", ["whole", "product"])
@pytest.mark.parametrize("second", ["whole", "product"])
def test_lokr_is_blocks_of_one_matrix_scaled_by_another(first: str, second: str) -> None:
    """Block (i, j) is the second matrix times entry (i, j) of the first; alpha counts only where a factor has a rank."""
    parts: dict[str, Tensor] = {"alpha": ALPHA}
    parts |= {"lokr_w1": draw(2, 3)} if first == "whole" else {"lokr_w1_a": draw(2, 2), "lokr_w1_b": draw(2, 3)}
    parts |= {"lokr_w2": draw(4, 5)} if second == "whole" else {"lokr_w2_a": draw(4, 2), "lokr_w2_b": draw(2, 5)}
    w1 = parts["lokr_w1"] if first == "whole" else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    w2 = parts["lokr_w2"] if second == "whole" else parts["lokr_w2_a"] @ parts["lokr_w2_b"]
    delta = torch.cat([torch.cat([w1[i, j] * w2 for j in range(3)], dim=1) for i in range(2)])
    scale = 1.0 if (first, second) == ("whole", "whole") else 1.5
    weight = draw(8, 15)
    assert close(changed(weight, parts), weight + STRENGTH * scale * delta)


def test_lokr_of_a_convolution_keeps_the_kernel_in_its_second_factor() -> None:
    """Whole, flat, or about a core, it is the same kernel."""
    weight, w1, a, b, core = draw(8, 6, 3, 3), draw(2, 3), draw(2, 4), draw(2, 2), draw(2, 2, 3, 3)
    w2 = torch.zeros(4, 2, 3, 3)
    for i in range(2):
        for j in range(2):
            w2 += a[i][:, None, None, None] * b[j][None, :, None, None] * core[i, j]
    delta = torch.cat([torch.cat([w1[i, j] * w2 for j in range(3)], dim=1) for i in range(2)])
    assert close(changed(weight, {"lokr_w1": w1, "lokr_w2": w2}), weight + STRENGTH * delta)
    tucker = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "lokr_t2": core}
    assert close(changed(weight, tucker), weight + STRENGTH * delta)
    flat = {"lokr_w1": w1, "lokr_w2_a": w2.flatten(1), "lokr_w2_b": torch.eye(18)}
    assert close(changed(weight, flat), weight + STRENGTH * delta)


def test_glora_changes_what_the_layer_reads_and_what_it_adds() -> None:
    """The layer sees x + A x, and B x comes on top; files with the factors the other way round mean the same."""
    weight, x = draw(6, 5), draw(3, 5, seed=9)
    a1, a2, b1, b2 = draw(5, 2), draw(2, 5), draw(6, 2), draw(2, 5, seed=3)
    reads = functional.linear(functional.linear(x, a2), a1)
    adds = functional.linear(functional.linear(x, b2), b1)
    expected = functional.linear(x, weight) + STRENGTH * 1.5 * (functional.linear(reads, weight) + adds)
    for order in (dict(a1=a1, a2=a2, b1=b1, b2=b2), dict(a1=a2, a2=a1, b1=b2, b2=b1)):  # noqa: C408
        assert close(functional.linear(x, changed(weight, {**order, "alpha": ALPHA})), expected)


def turned(row: Tensor, other: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """A plane of two rows turned by Cayley's angle 2 atan(t)."""
    angle = 2 * math.atan(t)
    return (
        math.cos(angle) * row + math.sin(angle) * other,
        -math.sin(angle) * row + math.cos(angle) * other,
    )


def skew(t: float) -> Tensor:
    """The 2x2 block whose difference with its transpose is [[0, t], [-t, 0]]."""
    return torch.tensor([[0.3, t], [0.0, -1.0]])


def test_oft_turns_blocks_of_outputs() -> None:
    """Two rows of each block are turned in their plane by the angle that the block's skew part says, backwards as stored."""
    weight = draw(4, 3)
    blocks = torch.stack([skew(0.5), skew(-2.0)])
    found = changed(weight, {"oft_blocks": blocks}, 1.0)
    expected = [*turned(weight[0], weight[1], -0.5), *turned(weight[2], weight[3], 2.0)]
    assert close(found, torch.stack(expected))
    half = changed(weight, {"oft_blocks": blocks}, 0.5)
    assert close(half, weight + (found - weight) / 4)


def test_oft_turns_no_further_than_its_limit() -> None:
    """The skew part is shortened to alpha; an alpha of 0 is none."""
    weight = draw(2, 3)
    shortened = changed(weight, {"oft_blocks": skew(3.0)[None], "alpha": torch.tensor(math.sqrt(2) / 2)}, 1.0)
    assert close(shortened, torch.stack(turned(weight[0], weight[1], -0.5)))
    free = changed(weight, {"oft_blocks": skew(3.0)[None], "alpha": torch.tensor(0.0)}, 1.0)
    assert close(free, torch.stack(turned(weight[0], weight[1], -3.0)))


def test_boft_turns_pairs_ever_further_apart() -> None:
    """The first factor joins neighbours, the second rows two apart, as in a Fourier transform."""
    weight = draw(4, 3)
    angles = [[0.5, -1.0], [2.0, 0.25]]
    blocks = torch.stack([torch.stack([skew(t) for t in level]) for level in angles])
    rows = list(weight)
    for (one, other), t in zip(((0, 1), (2, 3)), angles[0], strict=True):
        rows[one], rows[other] = turned(rows[one], rows[other], t)
    for (one, other), t in zip(((0, 2), (1, 3)), angles[1], strict=True):
        rows[one], rows[other] = turned(rows[one], rows[other], t)
    found = torch.stack(rows)
    assert close(changed(weight, {"oft_blocks": blocks}, 1.0), found)
    rescale = torch.tensor([[2.0], [1.0], [1.0], [-1.0]])
    assert close(changed(weight, {"oft_blocks": blocks, "rescale": rescale}, 1.0), found * rescale)


def test_the_strength_of_boft_counts_in_each_factor_and_for_the_whole() -> None:
    """A single factor at one half: a quarter of its change."""
    weight = draw(2, 3)
    blocks = skew(0.5)[None, None]
    whole = changed(weight, {"oft_blocks": blocks}, 1.0)
    assert close(changed(weight, {"oft_blocks": blocks}, 0.5), weight + (whole - weight) / 4)


def test_dora_gives_inputs_the_lengths_it_learned() -> None:
    """Each column of the result points where the weight with its change does, and is as long as the file says."""
    weight, down, up = draw(5, 4), draw(2, 4), draw(5, 2)
    lengths = draw(1, 4).abs()
    parts = {"up": up, "down": down, "dora_scale": lengths, "alpha": ALPHA}
    full = changed(weight, parts, 1.0)
    summed = weight + 1.5 * up @ down
    assert close(full.norm(dim=0), lengths.flatten())
    assert close(functional.cosine_similarity(full, summed, dim=0), torch.ones(4))
    assert close(changed(weight, parts, 0.25), weight + 0.25 * (full - weight))


def test_dora_gives_outputs_their_lengths_by_those_of_the_weight() -> None:
    """Each row is ``W + d`` times the file's length over that of W alone."""
    weight, down, up = draw(5, 4), draw(2, 4), draw(5, 2)
    lengths = draw(5, 1).abs()
    parts = {"up": up, "down": down, "dora_scale": lengths, "alpha": ALPHA}
    full = changed(weight, parts, 1.0)
    assert close(full, (weight + 1.5 * up @ down) * lengths / weight.norm(dim=1, keepdim=True))
    assert close(changed(weight, parts, 0.25), weight + 0.25 * (full - weight))


def test_dora_of_a_convolution_measures_whole_kernels() -> None:
    """The length of an output is that of all its kernels."""
    weight = draw(4, 3, 3, 3)
    parts = {"up": draw(4, 2, 1, 1), "down": draw(2, 3, 3, 3), "dora_scale": draw(4, 1, 1, 1).abs()}
    found = changed(weight, parts, 1.0)
    summed = changed(weight, {role: parts[role] for role in ("up", "down")}, 1.0)
    ratio = parts["dora_scale"].flatten() / torch.stack([kernel.norm() for kernel in weight])
    assert close(found, summed * ratio.reshape(4, 1, 1, 1))


def test_whole_differences_and_new_weights() -> None:
    """Differences of weights, biases and norms are added; a set weight takes the place of the old one."""
    weight, other = draw(4, 3), draw(4, 3, seed=5)
    assert close(changed(weight, {"diff": other}), weight + STRENGTH * other)
    for role in ("w_norm", "diff_b", "b_norm"):
        assert close(changed(weight[:, 0], {role: other[:, 0]}), weight[:, 0] + STRENGTH * other[:, 0])
    assert torch.equal(changed(weight, {"set_weight": other}), other)


def test_a_weight_grows_by_zeros_before_what_else_the_file_does() -> None:
    """An input channel more is one that counts for nothing until the difference says otherwise."""
    weight, diff = draw(2, 2, 1, 1), draw(2, 3, 1, 1)
    found = changed(weight, {"reshape_weight": torch.tensor([2, 3, 1, 1]), "diff": diff})
    assert close(found[:, :2], weight + STRENGTH * diff[:, :2])
    assert close(found[:, 2], STRENGTH * diff[:, 2])


@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        ({"up": (6, 2), "down": (3, 5)}, (6, 5)),
        ({"up": (5, 2), "down": (2, 6)}, (6, 5)),
        ({"up": (6, 2), "down": (2, 4)}, (6, 5)),
        ({"diff": (5, 6)}, (6, 5)),
        ({"oft_blocks": (2, 2, 2)}, (6, 5)),
        ({"oft_blocks": (3, 2, 2, 2)}, (4, 5)),
        ({"up": (6, 2), "down": (2, 5), "dora_scale": (4, 1)}, (6, 5)),
        ({"lokr_w1": (2, 2), "lokr_w2": (2, 2)}, (6, 5)),
    ],
)
def test_what_does_not_fit_is_told_without_computing(parts: dict[str, tuple[int, ...]], shape: tuple[int, ...]) -> None:
    """Ranks that differ, sides the other way round, blocks for another width."""
    form = next(form for form in WEIGHT_FORMS if form.needs <= parts.keys())
    outlines = {role: torch.empty(sizes, device="meta") for role, sizes in parts.items()}
    assert attempt(lambda: form.apply(torch.empty(shape, device="meta"), outlines, 1.0)) is None
