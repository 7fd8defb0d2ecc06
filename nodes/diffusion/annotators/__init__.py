"""Annotators: what ControlNets and masks are made from. Edges, lines, depth, normals, poses, segments.

``frames`` brings pictures to the size asked for and back; ``lines``, ``colours`` and ``hints`` need no weights; ``networks`` knows the
networks and their files, ``edges``, ``depth``, ``poses``, ``dwpose``, ``animals``, ``segments`` and
``sam`` run them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from nodes.diffusion.annotators import animals as animals
    from nodes.diffusion.annotators import colours as colours
    from nodes.diffusion.annotators import depth as depth
    from nodes.diffusion.annotators import dwpose as dwpose
    from nodes.diffusion.annotators import edges as edges
    from nodes.diffusion.annotators import face_parts as face_parts
    from nodes.diffusion.annotators import frames as frames
    from nodes.diffusion.annotators import hints as hints
    from nodes.diffusion.annotators import keypoints as keypoints
    from nodes.diffusion.annotators import lines as lines
    from nodes.diffusion.annotators import poses as poses
    from nodes.diffusion.annotators import sam as sam
    from nodes.diffusion.annotators import segments as segments

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "animals",
        "colours",
        "depth",
        "dwpose",
        "edges",
        "face_parts",
        "frames",
        "hints",
        "keypoints",
        "lines",
        "poses",
        "sam",
        "segments",
    ],
)
