"""What preprocessors for ControlNets have in common: their inputs, and how they come to the weights of their networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from engine.errors import MissingFile
from engine.fileref import FileRef
from engine.models import Digest, ModelRef
from engine.run.context import NodeContext
from engine.spec import Choices, Optional, Output, Range
from nodes import diffusion
from nodes.diffusion.annotators.files import FOLDER, NETWORKS, missing
from nodes.sockets import Tensor

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel

Resolution = Annotated[int, Range(64, 16384, step=64), Optional()]
On = Annotated[str, Choices(("enable", "disable")), Optional()]
Off = Annotated[str, Choices(("disable", "enable")), Optional()]
Byte = Annotated[int, Range(0, 255, step=1), Optional()]

IMAGE: Final = (Output("IMAGE"),)
ROOT: Final = "ControlNet Preprocessors"


@dataclass(frozen=True, slots=True)
class Reads:
    """The files that a preprocessor reads, as its key counts them: all under which the weights of its networks may be there."""

    networks: Callable[..., Sequence[str]]
    """Called with the node's literals; gives the names of its networks."""

    def __call__(self, **literals: object) -> list[tuple[str, str | None]]:
        return [(FOLDER, name) for network in self.networks(**literals) for name in NETWORKS[network].names()]


def reads(*networks: str) -> Reads:
    """What a preprocessor reads that always needs the same networks."""
    return Reads(lambda **literals: networks)


def is_there(ctx: NodeContext, network: str) -> bool:
    """Whether the weights of a network are on this machine."""
    return any(ctx.find_file(FOLDER, name) is not None for name in NETWORKS[network].names())


def file_of(ctx: NodeContext, network: str) -> FileRef:
    """The file or folder of a network's weights. Raises MissingFile, saying which it needs and how to get it."""
    for name in NETWORKS[network].names():
        if (file := ctx.find_file(FOLDER, name)) is not None:
            return file
    raise MissingFile(missing(network))


def recipe(ctx: NodeContext, network: str) -> ModelRef:
    """The recipe of a network. Raises as ``file_of``."""
    return recipe_of(file_of(ctx, network), network)


def recipe_of(file: FileRef, network: str) -> ModelRef:
    """The recipe of a network whose weights are in ``file``."""
    ref = ModelRef(Digest(f"{network}:{file.digest}"), "annotator", str(file.path.absolute()))
    return ref.with_settings(network=network)


@contextmanager
def leased(ctx: NodeContext, network: str, image: Tensor, resolution: int) -> Iterator[LoadedModel]:
    """A network, on the device, with room to look at the pictures."""
    ref = recipe(ctx, network)
    with ctx.models.lease(ref, working_bytes=diffusion.annotators.frames.working_bytes(image, resolution)) as loaded:
        yield loaded


def annotated(
    ctx: NodeContext, image: Tensor, resolution: int, network: str, detect: Callable[[Any, Any], Any]
) -> Tensor:
    """What a network says of pictures, one after the other. ``detect`` is called with the network and a picture."""
    with leased(ctx, network, image, resolution) as loaded:
        module = loaded.module
        return diffusion.annotators.frames.annotated(
            image, lambda pixels: detect(module, pixels), ctx.progress, resolution
        )


def plain(ctx: NodeContext, image: Tensor, resolution: int, detect: Callable[[Any], Any]) -> Tensor:
    """The same without a network."""
    return diffusion.annotators.frames.annotated(image, detect, ctx.progress, resolution)
