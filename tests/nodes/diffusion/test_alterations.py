"""Changes of a UNet for a call: what each of them makes of the features, and that none stays."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.utils.torch_utils import apply_freeu
from torch import Tensor, nn

from nodes.diffusion import networks
from nodes.diffusion.alterations import Alteration, Moment, altered
from nodes.diffusion.configs import UNetConfig
from nodes.diffusion.deep_shrink import DeepShrink
from nodes.diffusion.free_u import FreeU, first_half_scaled
from nodes.diffusion.hyper_tile import HyperTile, cut, joined, tile_counts
from nodes.diffusion.schedules import FlowSchedule
from nodes.diffusion.token_merging import Matching, TokenMerging, split
from nodes.diffusion.unet_blocks import input_blocks, output_blocks

SCHEDULE = FlowSchedule(1.0)


@cache
def unet(middle: int | None = 1) -> Any:
    """A UNet of three levels, 32, 64 and 128 channels wide, of random weights."""
    config = UNetConfig(
        in_channels=4, out_channels=4, model_channels=32, channel_mult=(1, 2, 4), down_depths=((1, 1), (1, 1), (0, 0)),
        up_depths=((0, 0, 0), (1, 1, 1), (1, 1, 1)), mid_depth=middle, context_dim=8, heads=(2, 2, 2),
    )  # fmt: skip
    module = networks.build(config)
    draw = torch.Generator().manual_seed(0)
    shapes = networks.wanted_shapes(module).items()
    networks.assign(module, [(name, torch.randn(shape, generator=draw) * 0.08) for name, shape in shapes])
    return module


def run(network: Any, *alterations: Alteration, size: tuple[int, int] = (16, 16), sigma: float = 1.0) -> Tensor:
    """The output of the UNet for a fixed latent."""
    draw = torch.Generator().manual_seed(1)
    x, context = torch.randn(1, 4, *size, generator=draw), torch.randn(1, 3, 8, generator=draw)
    before = networks.trace(network, tensors=True)
    moment = Moment(sigma, *size, SCHEDULE)
    with ExitStack() as stack, torch.no_grad():
        for alteration in alterations:
            stack.enter_context(altered(network, alteration)(moment))
        out: Tensor = network(x, torch.tensor([500.0]), context, return_dict=False)[0]
    assert networks.trace(network, tensors=True) == before
    return out


class Watching:
    """An alteration that notes what goes into modules, behind those installed before."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules, self.seen = modules, list[Tensor]()

    def install(self, hooks: Any, moment: Moment) -> None:
        def note(features: Tensor) -> Tensor:
            self.seen.append(features)
            return features

        for module in self.modules:
            hooks.before(module, note)


def test_blocks_have_the_numbers_of_the_original_network() -> None:
    """Three levels of two blocks, two downsamplers and the first convolution: 9 down and 9 up."""
    network = unet()
    down, up = input_blocks(network), output_blocks(network)
    assert len(down) == len(up) == 9
    assert down[3].first is network.down_blocks[0].downsamplers[0]
    assert down[4] == (network.down_blocks[1].resnets[0], network.down_blocks[1].attentions[0])
    assert [block.below for block in up] == [128, 128, 128, 128, 64, 64, 64, 32, 32]
    assert [number for number, block in enumerate(up) if block.upsampler] == [2, 5]


@pytest.mark.parametrize(("block", "stage"), [(0, 0), (4, 1)])
def test_free_u_changes_what_goes_into_a_block_as_the_reference_does(block: int, stage: int) -> None:
    """The first block of each width, against diffusers' function; the other stage's numbers are 1."""
    backbone, skip = ((1.4, 1.0), (0.3, 1.0)) if stage == 0 else ((1.0, 1.4), (1.0, 0.3))
    resnet = output_blocks(unet())[block].resnet
    plain, changed = Watching([resnet]), Watching([resnet])
    run(unet(), plain)
    run(unet(), FreeU(*backbone, *skip, adaptive=False), changed)
    below = output_blocks(unet())[block].below
    ours, handed = plain.seen[0].clone().split([below, plain.seen[0].shape[1] - below], 1)
    expected = apply_freeu(stage, ours, handed, s1=0.3, s2=0.3, b1=1.4, b2=1.4)
    torch.testing.assert_close(changed.seen[0], torch.cat(expected, 1), atol=1e-5, rtol=1e-5)
    assert (changed.seen[0] - plain.seen[0]).abs().max() > 0.01


def test_free_u_2_strengthens_most_where_the_mean_is_largest() -> None:
    """Means over channels 0, 1, 2, 4 of a sample: factors 1, 1.25, 1.5 and 2; the second half stays."""
    features = torch.tensor([0.0, 1.0, 2.0, 4.0]).view(1, 1, 2, 2).expand(2, 4, 2, 2)
    found = first_half_scaled(features, 2.0, adaptive=True)
    assert found[1, 0].flatten().tolist() == [0.0, 1.25, 3.0, 8.0]
    assert torch.equal(found[:, 2:], features[:, 2:])
    even = torch.ones(1, 4, 1, 1)
    assert torch.equal(first_half_scaled(even, 2.0, adaptive=True), even)


def test_free_u_of_ones_changes_nothing_and_its_versions_differ() -> None:
    plain = run(unet())
    assert torch.equal(run(unet(), FreeU(1.0, 1.0, 1.0, 1.0, adaptive=True)), plain)
    first, second = (run(unet(), FreeU(1.3, 1.4, 0.9, 0.2, adaptive=adaptive)) for adaptive in (False, True))
    assert not torch.allclose(first, second, atol=1e-3)


def test_sides_are_cut_into_the_smallest_tiles_that_are_large_enough() -> None:
    """64 cells in tiles of at least 12: of 16, 32 or 64; a prime is not cut; a side below the least is one tile."""
    assert tile_counts(64, 12, 8) == [4, 2, 1]
    assert tile_counts(64, 12, 2) == [4, 2]
    assert tile_counts(61, 12, 2) == [1]
    assert tile_counts(8, 32, 2) == [1]


def test_tiles_are_parts_of_the_picture() -> None:
    """A grid of 4 x 6 in 2 x 3 tiles: the second one holds rows 0 and 1, columns 2 and 3."""
    tokens = torch.arange(24.0).view(1, 24, 1).repeat(2, 1, 1)
    tiles = cut(tokens, (4, 6), (2, 3))
    assert tiles.shape == (12, 4, 1)
    assert tiles[1].flatten().tolist() == [2, 3, 8, 9]
    assert torch.equal(joined(tiles, (4, 6), (2, 3)), tokens)


def attention_block() -> Any:
    torch.manual_seed(0)
    return nn.ModuleList([BasicTransformerBlock(8, 2, 4)]).eval()


def attended(block: Any, alteration: Alteration | None, tokens: Tensor, size: tuple[int, int], **kwargs: Any) -> Tensor:
    call: Callable[..., Tensor] = block[0].attn1
    arguments = {"encoder_hidden_states": None, "attention_mask": None, **kwargs}
    with torch.no_grad():
        if alteration is None:
            return call(tokens, **arguments)
        with altered(block, alteration)(Moment(1.0, *size, SCHEDULE)):
            return call(tokens, **arguments)


@pytest.mark.parametrize(("depth", "grid"), [(0, (8, 12)), (1, (8, 12)), (1, (16, 24))])
def test_hyper_tile_attends_within_tiles(depth: int, grid: tuple[int, int]) -> None:
    """Against whole attention with a mask that lets the queries of the n-th tile, of 4 x 4 cells, see the n-th run of 16 tokens.

    The tokens are taken for rows as long as the picture is high."""
    size = (grid[0] << depth, grid[1] << depth)
    block, tokens = attention_block(), torch.randn(2, grid[0] * grid[1], 8)
    rows, columns = torch.meshgrid(torch.arange(grid[1]) // 4, torch.arange(grid[0]) // 4, indexing="ij")
    tile = (rows * (grid[0] // 4) + columns).flatten()
    run_ = torch.arange(grid[0] * grid[1]) // 16
    mask = torch.where(tile[:, None] == run_, 0.0, -torch.inf)[None].expand(2, -1, -1)
    found = attended(block, HyperTile(32, 2, depth, False), tokens, size)
    torch.testing.assert_close(found, attended(block, None, tokens, size, attention_mask=mask))
    assert not torch.allclose(found, attended(block, None, tokens, size))


def test_hyper_tile_leaves_other_levels_and_odd_sizes_alone() -> None:
    block, tokens = attention_block(), torch.randn(1, 64, 8)
    plain = attended(block, None, tokens, (8, 8))
    for tiles, size in (
        (HyperTile(32, 2, 0, False), (16, 16)),
        (HyperTile(32, 2, 1, True), (16, 16)),
        (HyperTile(32, 2, 2, False), (15, 16)),
        (HyperTile(64, 2, 0, False), (8, 8)),
    ):
        assert torch.equal(attended(block, tiles, tokens, size), plain)


def test_hyper_tile_draws_tiles_one_after_the_other() -> None:
    """From a swap size of 3 on; the last way is never drawn, down comes before across, and a side with one way draws nothing."""

    def tilings(tiles: HyperTile, width: int = 64) -> list[Any]:
        moment = Moment(1.0, 64, width, SCHEDULE, torch.Generator().manual_seed(5))
        return [tiles.tiling(64 * width, moment) for _ in range(8)]

    found = tilings(HyperTile(32, 4, 0, False))
    chance = torch.Generator().manual_seed(5)
    numbers = [int(torch.randint(3, (1,), generator=chance)) for _ in range(16)]
    assert [count for _, pair in found for count in pair] == [(16, 8, 4)[number] for number in numbers]
    assert len(set(numbers)) == 3
    odd = tilings(HyperTile(32, 4, 0, False), width=61)
    assert [across for _, (_, across) in odd] == [(16, 8, 4)[number] for number in numbers[:8]]


def test_one_token_in_each_whole_square_stays() -> None:
    """5 x 6 tokens have 2 x 3 whole squares; the last row may all be merged."""
    sources, into = split(5, 6, torch.Generator().manual_seed(3))
    assert sorted([*sources.tolist(), *into.tolist()]) == list(range(30))
    assert sorted((number // 6 // 2, number % 6 // 2) for number in into.tolist()) == [
        (row, column) for row in range(2) for column in range(3)
    ]
    places = {tuple(split(4, 4, torch.Generator().manual_seed(seed))[1].tolist()) for seed in range(20)}
    assert len(places) > 10


def test_what_is_most_alike_is_merged_into_its_mean() -> None:
    """The algorithm of the paper, token by token."""
    tokens = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(0))
    sources, into = split(4, 4, torch.Generator().manual_seed(0))
    matching = Matching.of(tokens, sources, into, 7)
    merged = matching.merge(tokens)
    assert merged.shape == (2, 9, 5)
    for sample, whole in zip(tokens, matching.unmerge(merged), strict=True):
        likest = []
        for source in sources.tolist():
            cosines = [float(torch.cosine_similarity(sample[source], sample[target], 0)) for target in into.tolist()]
            likest.append((max(cosines), source, int(into[cosines.index(max(cosines))])))
        went = {source: target for _, source, target in sorted(likest, reverse=True)[:7]}
        for number in range(16):
            target = went.get(number, number)
            together = [target, *(source for source, chosen in went.items() if chosen == target)]
            torch.testing.assert_close(whole[number], sample[together].mean(0))


def test_token_merging_asks_once_for_what_is_alike() -> None:
    """Where each square of 2 x 2 is of one colour, a quarter of the queries is as good as all; a ratio of 0 is no merging."""
    block = attention_block()
    squares = torch.randn(2, 4, 4, 8).repeat_interleave(2, 1).repeat_interleave(2, 2).reshape(2, 64, 8)
    found = attended(block, TokenMerging(0.9), squares, (8, 8))
    torch.testing.assert_close(found, attended(block, None, squares, (8, 8)))
    tokens = torch.randn(2, 64, 8)
    plain = attended(block, None, tokens, (8, 8))
    assert not torch.allclose(attended(block, TokenMerging(0.3), tokens, (8, 8)), plain)
    for same in (
        attended(block, TokenMerging(0.0), tokens, (8, 8)),
        attended(block, TokenMerging(0.3), tokens, (16, 16)),
    ):
        assert torch.equal(same, plain)


def sides(alteration: DeepShrink, network: Any) -> list[tuple[int, int]]:
    """Of what goes into every block, the first of the way down to the last of the way up."""
    watch = Watching([block.first for block in input_blocks(network)] + [it.resnet for it in output_blocks(network)])
    assert run(network, alteration, watch, size=(16, 24)).shape[-2:] == (16, 24)
    return [(features.shape[2], features.shape[3]) for features in watch.seen]


@pytest.mark.parametrize("after_skip", [True, False])
@pytest.mark.parametrize("middle", [1, None])
def test_deep_shrink_works_on_a_smaller_picture_behind_a_block(after_skip: bool, middle: int | None) -> None:
    """Behind block 4, on the second level: 8 x 12 becomes 4 x 6 there and 2 x 3 below, until block 4 is met on the way up."""
    found = sides(DeepShrink(4, 2.0, 0.0, 1.0, after_skip, "bicubic", "bislerp"), unet(middle))
    down = [(16, 24)] * 4 + [(8, 12)] + [(4, 6)] * 2 + [(2, 3)] * 2
    met = [(2, 3)] * 3 + [(4, 6)] + [(8, 12) if after_skip else (4, 6), (8, 12)] + [(16, 24)] * 3
    assert found == down + met


def test_deep_shrink_ends_with_its_percent() -> None:
    """With a shift of 1 the sigma of a percent p is 1 - p; a factor of 1 changes nothing at all."""
    plain, shrink = run(unet()), DeepShrink(3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")
    assert not torch.allclose(run(unet(), shrink, sigma=0.66), plain)
    for same in (run(unet(), shrink, sigma=0.64), run(unet(), DeepShrink(3, 1.0, 0.0, 1.0, True, "area", "area"))):
        assert torch.equal(same, plain)
    late = DeepShrink(3, 2.0, 0.5, 1.0, True, "bicubic", "bicubic")
    assert torch.equal(run(unet(), late, sigma=0.6), plain)
    assert torch.equal(run(unet(), DeepShrink(9, 2.0, 0.0, 1.0, True, "area", "area")), plain)


def test_the_last_input_block_may_be_shrunk() -> None:
    for middle in (1, None):
        found = sides(DeepShrink(8, 2.0, 0.0, 1.0, True, "area", "bilinear"), unet(middle))
        assert found[9:12] == [(4, 6)] * 3
