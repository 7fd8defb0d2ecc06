"""Faces in pictures: found, brought upright to one size, restored there, and put back.

``files`` says where the weights are, ``retinaface`` is the network that finds faces, ``finding`` reads its answers, ``aligning`` cuts faces
out and puts them back, ``restoring`` does all of it for a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from nodes.diffusion.faces import aligning as aligning
    from nodes.diffusion.faces import finding as finding
    from nodes.diffusion.faces import restoring as restoring

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["aligning", "finding", "restoring"])
