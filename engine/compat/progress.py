"""Progress of the node call under way, as packs report it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.compat import interrupts
from engine.compat.host import call_state, current

if TYPE_CHECKING:
    from engine.run.context import NodeContext, Preview

PreviewImage = tuple[str, Any, int | None]
"""Format, picture (Pillow's), longest side."""

_QUALITY = 95


def encoder(preview: PreviewImage) -> Preview:
    """Makes the JPEG of a preview, when somebody looks."""

    def encode() -> bytes:
        _, picture, longest = preview
        return encoded(("JPEG", picture, longest))

    return encode


def encoded(image: PreviewImage) -> bytes:
    """The file of a picture."""
    format, picture, longest = image
    if longest is not None and max(picture.size) > 0:
        factor = longest / max(picture.size)
        picture = picture.resize([max(1, round(side * factor)) for side in picture.size])
    stream = io.BytesIO()
    shown = picture.convert("RGB") if format == "JPEG" else picture
    shown.save(stream, format, quality=_QUALITY, compress_level=1)
    return stream.getvalue()


def is_result(preview: PreviewImage) -> bool:
    """Whether a picture is sent for its own sake: one on the way has a longest side, and one to be kept is as large as it is."""
    return preview[2] is None


def report(context: NodeContext, done: float, total: float, preview: Preview | None = None) -> None:
    """Tell the run, and stop here if it was told to stop."""
    interrupts.check(context)
    known = max(1, int(total))
    step = (min(int(done), known), known)
    state = call_state()
    if state is not None:
        state.progress = step
    context.report(*step, preview)


class ProgressBar:
    """Reports to the call under way, or to the one it was made in where it is used by a thread that knows of none."""

    def __init__(self, total: float, node_id: str | None = None) -> None:
        self.total = total
        self.current: float = 0
        self.node_id = node_id
        self._made_in = current.get()

    def update_absolute(self, value: float, total: float | None = None, preview: PreviewImage | None = None) -> None:
        """``value`` of ``total`` steps are done. Raises ``InterruptProcessingException`` where the run was told to stop."""
        if total is not None:
            self.total = total
        self.current = min(value, self.total)
        if _hooks:
            _hooks[0](self.current, self.total, preview)
        context = current.get() or self._made_in
        if context is None:
            return
        shown = preview if preview and is_result(preview) else None
        report(context, self.current, self.total, encoder(preview) if preview and not shown else None)
        if shown:
            context.show(encoded(shown))

    def update(self, value: float) -> None:
        """``value`` more steps are done."""
        self.update_absolute(self.current + value)


_hooks: list[Callable[..., Any]] = []


def set_progress_bar_global_hook(function: Callable[..., Any] | None) -> None:
    """Have a function told, too, what every bar is."""
    _hooks[:] = [function] if function else []
