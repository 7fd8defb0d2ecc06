"""Prompts in a style: texts of files that are shared as style packs, put around one's own."""

from __future__ import annotations

from typing import Annotated

from engine import styles
from engine.fileref import FileRef
from engine.spec import FileChoice, Multiline, Optional, Output, node

StyleChoice = Annotated[FileRef, FileChoice("styles", entries=True)]
Text = Annotated[str, Multiline()]

_TEXTS = [Output("STRING", "text_positive"), Output("STRING", "text_negative")]


@node("ApplyStyle", title="Apply Style", category="utils/text", outputs=_TEXTS)
def apply_style(style: StyleChoice, text_positive: Text = "", text_negative: Text = "") -> tuple[str, str]:
    """Both texts in a style from the files in models/styles, JSON or CSV as style packs are shared.

    The text goes where the style says {prompt}; where it does not say so, the style follows it. A style's negative comes before
    the negative text. Nodes one after the other make several styles.
    """
    return styles.style_of(style.path, style.digest).apply(text_positive, text_negative)


@node("SDXLPromptStyler", title="SDXL Prompt Styler", category="utils/text", outputs=_TEXTS)
def sdxl_prompt_styler(
    *,
    text_positive: Text = "",
    text_negative: Text = "",
    style: StyleChoice,
    log_prompt: Annotated[bool, Optional()] = True,
    style_positive: Annotated[bool, Optional()] = True,
    style_negative: Annotated[bool, Optional()] = True,
) -> tuple[str, str]:
    """Apply Style for workflows made with the node pack of this name; either text may be left as it is. Nothing is logged."""
    positive, negative = styles.style_of(style.path, style.digest).apply(text_positive, text_negative)
    return positive if style_positive else text_positive, negative if style_negative else text_negative
