"""``comfy.utils`` on real tensors, modules and files."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from engine.compat import interrupts
from engine.compat.comfy import utils
from engine.compat.comfy_extras.nodes_mask import composite
from engine.compat.host import Host, calling
from engine.errors import Cancelled, MissingFile, ModelFileError
from engine.run.context import NodeContext
from nodes.diffusion.resize import bislerp
from tests.compat.conftest import Watched


def test_a_bar_reports_to_the_call(call: NodeContext, watched: Watched) -> None:
    bar = utils.ProgressBar(3, node_id=call.node)
    bar.update(1)
    bar.update_absolute(2, 4, ("JPEG", Image.new("RGB", (8, 4), "red"), 16))
    bar.update(9)
    assert [(done, total) for done, total, _ in watched.reports] == [(1, 3), (2, 4), (4, 4)]
    assert watched.reports[0][2] is None
    encode = watched.reports[1][2]
    assert encode is not None
    assert Image.open(io.BytesIO(encode())).size == (16, 8)


def test_a_bar_stops_a_cancelled_run(call: NodeContext, watched: Watched) -> None:
    bar = utils.ProgressBar(3)
    watched.cancelled = True
    with pytest.raises(Cancelled) as raised:
        bar.update(1)
    assert isinstance(raised.value, interrupts.InterruptProcessingException)
    assert not isinstance(raised.value, Exception)
    assert watched.reports == []


def test_a_node_can_stop_its_run(call: NodeContext, host: Host) -> None:
    told: list[str | None] = []
    host.cancel = told.append
    interrupts.check()
    interrupts.interrupt()
    with pytest.raises(Cancelled):
        interrupts.check()
    interrupts.check()  # the job runs again, say
    interrupts.interrupt()
    interrupts.interrupt(False)
    interrupts.check()
    assert told == ["job-1", "job-1"]


def test_a_bar_outside_of_calls_does_nothing(watched: Watched) -> None:
    utils.ProgressBar(3).update(1)
    with calling(watched.context()):
        bar = utils.ProgressBar(2)
    bar.update(1)  # by a thread of its own, say
    assert len(watched.reports) == 1


@pytest.mark.parametrize("method", ["nearest-exact", "nearest", "bilinear", "area", "bicubic"])
def test_upscaling_is_torchs(method: str) -> None:
    samples = torch.rand(2, 4, 6, 8)
    assert torch.equal(
        utils.common_upscale(samples, 16, 10, method, "disabled"), interpolate(samples, (10, 16), mode=method)
    )
    middle = interpolate(samples[..., 1:7], (12, 12), mode=method)
    assert torch.equal(utils.common_upscale(samples, 12, 12, method, "center"), middle)


def test_upscaling_knows_two_methods_more_and_videos() -> None:
    samples = torch.rand(1, 4, 6, 8)
    assert torch.equal(utils.common_upscale(samples, 16, 12, "bislerp", "disabled"), bislerp(samples, 16, 12))
    assert utils.lanczos(samples, 16, 12).shape == (1, 4, 12, 16)
    video = torch.rand(2, 3, 5, 6, 8)
    scaled = utils.common_upscale(video, 4, 3, "area", "disabled")
    assert torch.equal(scaled[1, :, 2], interpolate(video[1, :, 2][None], (3, 4), mode="area")[0])


@pytest.mark.parametrize("size", [(40, 70), (16, 16), (64, 17), (33, 64)])
def test_tiles_make_the_same_picture(size: tuple[int, int], watched: Watched) -> None:
    samples = torch.rand(2, 3, *size)
    seen: list[torch.Size] = []

    def double(tile: torch.Tensor) -> torch.Tensor:
        seen.append(tile.shape)
        return interpolate(tile, scale_factor=2.0, mode="nearest")

    with calling(watched.context()):
        steps = utils.get_tiled_scale_steps(size[1], size[0], 24, 16, 4)
        bar = utils.ProgressBar(2 * steps)
        result = utils.tiled_scale(samples, double, 24, 16, 4, 2, 3, pbar=bar)
    torch.testing.assert_close(result, interpolate(samples, scale_factor=2.0, mode="nearest"))
    assert len(seen) == 2 * steps == len(watched.reports)
    assert max(shape[2] for shape in seen) <= 16
    assert max(shape[3] for shape in seen) <= 24


def test_tiles_can_have_one_side_or_shrink() -> None:
    sound = torch.rand(1, 2, 50)
    half = utils.tiled_scale_multidim(
        sound, lambda tile: tile[..., ::2], tile=(16,), overlap=4, upscale_amount=2, out_channels=2, downscale=True
    )
    torch.testing.assert_close(half, sound[..., ::2])


def test_a_picture_is_pasted_through_a_mask() -> None:
    below, above = torch.zeros(2, 1, 4, 6), torch.ones(1, 1, 2, 4)
    pasted = composite(below, above, 8, 16)
    assert (float(pasted[1, 0, 2:, 1:5].min()), float(pasted.sum()), float(below.sum())) == (1, 16, 0)
    assert composite(below, above, -1, -1, multiplier=1).sum() == 2 * 3
    assert composite(below, above, 99, 0, multiplier=1).sum() == 0
    half = composite(below, above, 0, 0, torch.full((1, 9, 9), 0.5), multiplier=1, resize_source=True)
    assert torch.equal(half, torch.full_like(below, 0.5))


def test_batches_are_cut_repeated_and_spread() -> None:
    five = torch.arange(5)
    assert utils.repeat_to_batch_size(five, 7).tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert utils.repeat_to_batch_size(five[None], 3, dim=1).tolist() == [[0, 1, 2]]
    assert utils.resize_to_batch_size(five, 3).tolist() == [0, 2, 4]
    assert utils.resize_to_batch_size(five[:2], 4).tolist() == [0, 0, 1, 1]


def test_safetensors_come_back_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    utils.save_torch_file({"x": torch.ones(2)}, path, metadata={"name": "n"})
    tensors, metadata = utils.load_torch_file(str(path), return_metadata=True)
    assert (tensors["x"].tolist(), metadata) == ([1.0, 1.0], {"name": "n"})
    path.write_bytes(b"no")
    with pytest.raises(ModelFileError, match=r"a\.safetensors"):
        utils.load_torch_file(path)
    with pytest.raises(MissingFile):
        utils.load_torch_file(tmp_path / "b.safetensors")


class _Evil:
    """Unpickles into a call that makes a folder."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self._mark),))


def test_a_pickle_gives_tensors_and_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": OrderedDict(x=torch.ones(1)), "epoch": 3}, path)
    assert utils.load_torch_file(path, safe_load=False)["x"].tolist() == [1.0]
    torch.save({"params": {"y": torch.ones(1)}}, path)
    assert list(utils.load_torch_file(path)) == ["y"]
    path.write_bytes(pickle.dumps(_Evil(tmp_path / "code ran")))
    with pytest.raises(ModelFileError, match="more than tensors"):
        utils.load_torch_file(path, safe_load=False)
    assert not (tmp_path / "code ran").exists()


def test_state_dicts_are_renamed_and_counted() -> None:
    tensors = {"a.x": torch.zeros(3, dtype=torch.float16), "a.y": torch.zeros(1), "b": torch.zeros(9)}
    assert utils.calculate_parameters(tensors, "a.") == 4
    assert utils.weight_dtype(tensors, "a.") == torch.float16
    taken = utils.state_dict_prefix_replace(tensors, {"a.": "c."}, filter_keys=True)
    assert (sorted(taken), sorted(tensors)) == (["c.x", "c.y"], ["b"])
    assert list(utils.state_dict_key_replace(tensors, {"b": "d", "gone": "e"})) == ["d"]


def test_modules_are_reached_by_path() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    before = utils.get_attr(module, "1.weight")
    assert utils.set_attr_param(module, "1.weight", torch.full((1, 1), 2.0)) is before
    utils.copy_to_param(module, "0.bias", torch.tensor([5.0]))
    weight, bias = utils.get_attr(module, "1.weight"), utils.get_attr(module, "0.bias")
    assert (weight.item(), weight.requires_grad, bias.item()) == (2.0, False, 5.0)
