"""Texts: joining, cutting, searching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

from engine.spec import Multiline, Optional, Output, Range, node
from nodes.patterns import Pattern

Text = Annotated[str, Multiline()]
Switchable = Annotated[bool, Optional()]

_CASES: Final[dict[str, Callable[[str], str]]] = {
    "UPPERCASE": str.upper,
    "lowercase": str.lower,
    "Capitalize": str.capitalize,
    "Title Case": str.title,
}
_TRIMS: Final[dict[str, Callable[[str], str]]] = {"Both": str.strip, "Left": str.lstrip, "Right": str.rstrip}


@node("StringConcatenate", title="Concatenate", category="utils/string", outputs=[Output("STRING")])
def string_concatenate(string_a: Text, string_b: Text, delimiter: str = "") -> str:
    """The first text, the delimiter, the second text."""
    return f"{string_a}{delimiter}{string_b}"


@node("StringSubstring", title="Substring", category="utils/string", outputs=[Output("STRING")])
def string_substring(string: Text, start: int, end: int) -> str:
    """The characters from ``start`` up to, not including, ``end``. Negative positions count from the end of the text."""
    return string[start:end]


@node("StringLength", title="Length", category="utils/string", outputs=[Output("INT", "length")])
def string_length(string: Text) -> int:
    """How many characters the text has."""
    return len(string)


@node("CaseConverter", title="Case Converter", category="utils/string", outputs=[Output("STRING")])
def case_converter(string: Text, mode: Literal["UPPERCASE", "lowercase", "Capitalize", "Title Case"]) -> str:
    """The text in capitals, in small letters, with a capital at its beginning, or with one at the beginning of each word."""
    return _CASES[mode](string)


@node("StringTrim", title="Trim", category="utils/string", outputs=[Output("STRING")])
def string_trim(string: Text, mode: Literal["Both", "Left", "Right"]) -> str:
    """The text without the blanks and line ends at its ends."""
    return _TRIMS[mode](string)


@node("StringReplace", title="Replace", category="utils/string", outputs=[Output("STRING")])
def string_replace(string: Text, find: Text, replace: Text) -> str:
    """The text with ``replace`` wherever ``find`` was."""
    return string.replace(find, replace)


@node("StringContains", title="Contains", category="utils/string", outputs=[Output("BOOLEAN", "contains")])
def string_contains(string: Text, substring: Text, case_sensitive: bool = True) -> bool:
    """Whether ``substring`` is somewhere in the text."""
    return substring in string if case_sensitive else substring.lower() in string.lower()


@node("StringCompare", title="Compare", category="utils/string", outputs=[Output("BOOLEAN")])
def string_compare(
    *, string_a: Text, string_b: Text, mode: Literal["Starts With", "Ends With", "Equal"], case_sensitive: bool = True
) -> bool:
    """Whether the first text starts with, ends with or is the second."""
    a, b = (string_a, string_b) if case_sensitive else (string_a.lower(), string_b.lower())
    if mode == "Equal":
        return a == b
    return a.startswith(b) if mode == "Starts With" else a.endswith(b)


@node("RegexMatch", title="Regex Match", category="utils/string", outputs=[Output("BOOLEAN", "matches")])
def regex_match(
    string: Text, regex_pattern: Text, case_insensitive: bool = True, multiline: bool = False, dotall: bool = False
) -> bool:
    """Whether the regular expression matches anywhere in the text.

    With ``multiline`` ^ and $ are the ends of lines too; with ``dotall`` the dot is a line end too.
    """
    pattern = Pattern(regex_pattern, ignore_case=case_insensitive, multiline=multiline, dotall=dotall)
    return pattern.search(string) is not None


@node("RegexExtract", title="Regex Extract", category="utils/string", outputs=[Output("STRING")])
def regex_extract(
    *,
    string: Text,
    regex_pattern: Text,
    mode: Literal["First Match", "All Matches", "First Group", "All Groups"],
    case_insensitive: bool = True,
    multiline: bool = False,
    dotall: bool = False,
    group_index: Annotated[int, Range(0, 100)] = 1,
) -> str:
    """What the regular expression matches; of several matches each in a line of its own, "" where there is none.

    First Match is all that is matched first; All Matches are the first groups of all matches, or the whole ones of a pattern without
    groups. First Group and All Groups are the group number ``group_index`` of the first match and of all.
    """
    pattern = Pattern(regex_pattern, ignore_case=case_insensitive, multiline=multiline, dotall=dotall)
    if mode == "All Matches":
        return "\n".join(pattern.every(string, min(1, pattern.groups)))
    group = 0 if mode == "First Match" else group_index
    if group > pattern.groups:
        return ""
    if mode == "All Groups":
        return "\n".join(pattern.every(string, group))
    match = pattern.search(string)
    return "" if match is None else match.group(group) or ""


@node("RegexReplace", title="Regex Replace", category="utils/string", outputs=[Output("STRING")])
def regex_replace(
    string: Text,
    regex_pattern: Text,
    replace: Text,
    case_insensitive: Switchable = True,
    multiline: Switchable = False,
    dotall: Switchable = False,
    count: Annotated[int, Range(0, 100), Optional()] = 0,
) -> str:
    r"""The text with what the regular expression matches replaced, ``count`` times, or everywhere if that is 0.

    In ``replace`` \1 is what the first group caught and \g<name> what the group of that name did.
    """
    pattern = Pattern(regex_pattern, ignore_case=case_insensitive, multiline=multiline, dotall=dotall)
    return pattern.replace(string, replace, count)
