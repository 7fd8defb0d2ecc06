"""ComfyUI's nodes for texts and typed-in values: as editors are told of them, and what they compute."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from engine.graph.object_info import object_info
from engine.registry import Registry
from engine.run.executor import Run
from nodes import primitives, strings
from tests.engine.run.toolbox import graph, make_executor

STRING = ["STRING", {}]
TEXT = ["STRING", {"multiline": True}]
TRUE, FALSE = ["BOOLEAN", {"default": True}], ["BOOLEAN", {"default": False}]
FLAGS = {"case_insensitive": TRUE, "multiline": FALSE, "dotall": FALSE}
PATTERN = {"string": TEXT, "regex_pattern": TEXT}
MOST = 9223372036854775807
WIDE = {"min": -MOST, "max": MOST}
EXTRACTS = ["First Match", "All Matches", "First Group", "All Groups"]
CASES = ["UPPERCASE", "lowercase", "Capitalize", "Title Case"]

FACTS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], list[tuple[str, str]]]] = {
    "PrimitiveString": ("String", "utils/primitive", {"value": STRING}, {}, [("STRING", "STRING")]),
    "PrimitiveStringMultiline": ("String (Multiline)", "utils/primitive", {"value": TEXT}, {}, [("STRING", "STRING")]),
    "PrimitiveInt": (
        "Int",
        "utils/primitive",
        {"value": ["INT", {**WIDE, "control_after_generate": True}]},
        {},
        [("INT", "INT")],
    ),
    "PrimitiveFloat": (
        "Float",
        "utils/primitive",
        {"value": ["FLOAT", {"min": -float(MOST), "max": float(MOST)}]},
        {},
        [("FLOAT", "FLOAT")],
    ),
    "PrimitiveBoolean": ("Boolean", "utils/primitive", {"value": ["BOOLEAN", {}]}, {}, [("BOOLEAN", "BOOLEAN")]),
    "PreviewAny": ("Preview Any", "utils", {"source": ["*", {}]}, {}, []),
    "StringConcatenate": (
        "Concatenate",
        "utils/string",
        {"string_a": TEXT, "string_b": TEXT, "delimiter": ["STRING", {"default": ""}]},
        {},
        [("STRING", "STRING")],
    ),
    "StringSubstring": (
        "Substring",
        "utils/string",
        {"string": TEXT, "start": ["INT", {}], "end": ["INT", {}]},
        {},
        [("STRING", "STRING")],
    ),
    "StringLength": ("Length", "utils/string", {"string": TEXT}, {}, [("INT", "length")]),
    "CaseConverter": (
        "Case Converter",
        "utils/string",
        {"string": TEXT, "mode": [CASES, {}]},
        {},
        [("STRING", "STRING")],
    ),
    "StringTrim": (
        "Trim",
        "utils/string",
        {"string": TEXT, "mode": [["Both", "Left", "Right"], {}]},
        {},
        [("STRING", "STRING")],
    ),
    "StringReplace": (
        "Replace",
        "utils/string",
        {"string": TEXT, "find": TEXT, "replace": TEXT},
        {},
        [("STRING", "STRING")],
    ),
    "StringContains": (
        "Contains",
        "utils/string",
        {"string": TEXT, "substring": TEXT, "case_sensitive": TRUE},
        {},
        [("BOOLEAN", "contains")],
    ),
    "StringCompare": (
        "Compare",
        "utils/string",
        {
            "string_a": TEXT,
            "string_b": TEXT,
            "mode": [["Starts With", "Ends With", "Equal"], {}],
            "case_sensitive": TRUE,
        },
        {},
        [("BOOLEAN", "BOOLEAN")],
    ),
    "RegexMatch": ("Regex Match", "utils/string", {**PATTERN, **FLAGS}, {}, [("BOOLEAN", "matches")]),
    "RegexExtract": (
        "Regex Extract",
        "utils/string",
        {
            **PATTERN,
            "mode": [EXTRACTS, {}],
            **FLAGS,
            "group_index": ["INT", {"default": 1, "min": 0, "max": 100}],
        },
        {},
        [("STRING", "STRING")],
    ),
    "RegexReplace": (
        "Regex Replace",
        "utils/string",
        {**PATTERN, "replace": TEXT},
        {**FLAGS, "count": ["INT", {"default": 0, "min": 0, "max": 100}]},
        [("STRING", "STRING")],
    ),
}
"""Title, category, required inputs, optional inputs, outputs with their names: ComfyUI's."""


def _plain(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [kind, *(options or [{}])] for name, (kind, *options) in inputs.items()}


@pytest.mark.parametrize("type_", FACTS)
def test_an_editor_is_told_what_comfyui_tells_it(type_: str, core: Registry) -> None:
    """Id, title, category, inputs in their order with all their options, outputs with their names."""
    title, category, required, optional, outputs = FACTS[type_]
    info = object_info(core[type_])
    assert (info["display_name"], info["category"]) == (title, category)
    assert _plain(info["input"]["required"]) == required
    assert _plain(info["input"].get("optional", {})) == optional
    assert info["input_order"]["required"] == list(required)
    assert info["input_order"].get("optional", []) == list(optional)
    assert list(zip(info["output"], info["output_name"], strict=True)) == outputs
    assert not any(info["output_is_list"])
    assert info["output_node"] is (type_ == "PreviewAny")
    assert info["description"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\nb", "a\nb"),
        (3, "3"),
        (0.5, "0.5"),
        (True, "True"),
        (None, "None"),
        ({"ä": [1, None]}, '{\n    "ä": [\n        1,\n        null\n    ]\n}'),
        ([object], "[<class 'object'>]"),
    ],
)
def test_preview_any_shows_a_value_as_text(value: Any, text: str) -> None:
    """Texts as they are, structure as indented JSON, and what has no JSON as Python writes it."""
    assert primitives.preview_any(value).ui == {"text": [text]}


def test_preview_any_shows_each_element_of_a_list(core: Registry, tmp_path: Path) -> None:
    """In a run its texts arrive under ``text``, one for each element."""
    shown = graph(
        a=("PrimitiveStringMultiline", {"value": "b a"}),
        b=("CaseConverter", {"string": "a/0", "mode": "UPPERCASE"}),
        c=("StringConcatenate", {"string_a": "b/0", "string_b": "c", "delimiter": "-"}),
        s=("PreviewAny", {"source": "c/0"}),
    )
    assert make_executor(core, tmp_path).run_sync(Run(shown)).ui == {"s": {"text": ["B A-c"]}}


@pytest.mark.parametrize(("start", "end", "expected"), [(1, 3, "bc"), (-2, 4, "cd"), (3, 1, ""), (0, 99, "abcd")])
def test_substring_cuts_as_python_does(start: int, end: int, expected: str) -> None:
    """Negative positions count from the end; beyond the ends there is nothing."""
    assert strings.string_substring("abcd", start, end) == expected


def test_case_trim_replace_length() -> None:
    """Each mode by an example."""
    cases = [strings.case_converter("aB cD", mode) for mode in CASES]
    assert cases == ["AB CD", "ab cd", "Ab cd", "Ab Cd"]
    assert [strings.string_trim(" a\n", mode) for mode in ("Both", "Left", "Right")] == ["a", "a\n", " a"]
    assert strings.string_replace("a.b.c", ".", "") == "abc"
    assert strings.string_length("äöü") == 3


def test_contains_and_compare_may_ignore_case() -> None:
    """With and without."""
    assert strings.string_contains("Castle", "cast", False)
    assert not strings.string_contains("Castle", "cast", True)

    def compare(b: str, mode: str, case_sensitive: bool) -> bool:
        return bool(strings.string_compare(string_a="Castle", string_b=b, mode=mode, case_sensitive=case_sensitive))

    assert compare("Cas", "Starts With", True)
    assert not compare("cas", "Starts With", True)
    assert compare("TLE", "Ends With", False)
    assert compare("castle", "Equal", False)
    assert not compare("Castl", "Equal", True)


@pytest.mark.parametrize(
    ("mode", "pattern", "group", "expected"),
    [
        ("First Match", r"(\w)=(\d+)", 1, "a=1"),
        ("First Match", "x", 1, ""),
        ("All Matches", r"\w=\d+", 1, "a=1\nb=22\nc=3"),
        ("All Matches", r"(\w)=(\d+)", 2, "a\nb\nc"),
        ("First Group", r"(\w)=(\d+)", 2, "1"),
        ("First Group", r"(\w)=(\d+)", 3, ""),
        ("First Group", r"(\w)=(\d+)", 0, "a=1"),
        ("All Groups", r"(\w)=(\d+)", 2, "1\n22\n3"),
        ("All Groups", r"(\w)=(\d\d)?", 2, "\n22\n"),
        ("All Groups", r"\w=\d", 1, ""),
    ],
)
def test_regex_extract(mode: str, pattern: str, group: int, expected: str) -> None:
    """Matches and groups, each of several in a line of its own; nothing found is the empty text."""
    assert (
        strings.regex_extract(string="a=1 b=22\nc=3", regex_pattern=pattern, mode=mode, group_index=group) == expected
    )


def test_regex_flags_and_replacement() -> None:
    """Case, lines, dots; groups in the replacement; a count of replacements."""
    assert strings.regex_match("A\nb", "^B$", True, True)
    assert not strings.regex_match("A\nb", "^B$", False, True)
    assert not strings.regex_match("A\nb", "a.b")
    assert strings.regex_match("A\nb", "a.b", dotall=True)
    assert strings.regex_replace("a1b2c3", r"([a-z])(\d)", r"\2\1") == "1a2b3c"
    assert strings.regex_replace("a1b2c3", r"\d", "", count=2) == "abc3"


def _failure(type_: str, core: Registry, folder: Path, **inputs: Any) -> str:
    run = graph(r=(type_, inputs), s=("PreviewAny", {"source": "r/0"}))
    result = make_executor(core, folder).run_sync(Run(run))
    assert result.status == "failed"
    return str(result.failures[0])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "unterminated subpattern"),
        ("(?R)", "unknown extension"),
        ("(" * 5000 + ")" * 5000, "recursion"),
        ("((a{1000}){1000}){1000}", "its repeats come to 1001001000 elements"),
        ("(?x)#[\n((a{1000}){1000}){1000}#]", "the flag x is not taken"),
        ("a" * 10_001, "at most 10000 characters"),
    ],
)
def test_a_bad_pattern_is_an_error_of_its_input(pattern: str, message: str, core: Registry, tmp_path: Path) -> None:
    """What is no pattern, or would take all memory there is, names the input and what is wrong."""
    failure = _failure("RegexMatch", core, tmp_path, string="aaa", regex_pattern=pattern)
    assert failure.startswith("node r (RegexMatch), input regex_pattern: expected a ")
    assert message in failure


def test_a_pattern_that_would_search_for_ever_is_stopped(
    core: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search ends at its time limit, and the message says what to write instead."""
    monkeypatch.setattr("nodes.patterns.SECONDS", 0.2)
    began = time.perf_counter()
    failure = _failure("RegexMatch", core, tmp_path, string="a" * 60 + "b", regex_pattern="(a|aa)+$")
    assert "input regex_pattern: expected a pattern that is matched within 0.2 s" in failure
    assert time.perf_counter() - began < 3


def test_a_replacement_with_a_group_that_is_not_there(core: Registry, tmp_path: Path) -> None:
    """It is the replacement's error, not the pattern's."""
    failure = _failure("RegexReplace", core, tmp_path, string="a", regex_pattern="(a)", replace=r"\2")
    assert "input replace: expected a replacement whose groups the pattern has" in failure


def test_counted_repeats_of_real_patterns_are_taken() -> None:
    """Dates, times and ids are far from the limit."""
    text = json.dumps({"id": "0f8fad5b-d9cb-469f-a165-70867728950e", "at": "2024-02-29T12:00:00"})
    ids = strings.regex_extract(
        string=text, regex_pattern=r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", mode="All Matches"
    )
    assert ids == "0f8fad5b-d9cb-469f-a165-70867728950e"
    assert strings.regex_match(text, r"\d{4}-\d{2}-\d{2}T(\d{2}:){2}\d{2}")
