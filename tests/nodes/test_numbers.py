"""Expressions, numbers and texts made of them, and chance by seed."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.graph.validate import validate
from nodes import expressions, texts
from nodes.numbers import random_number
from tests.engine.run.toolbox import graph
from tests.nodes.runs import Bench


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(a + b) / 2", 3.5),
        ("-a ** 2", -9),
        ("7 // 2 + 7 % 2", 4),
        ("a < b < 5", True),
        ("a # first\n + b", 7),
        ("a > 1 and not b == 3", True),
        ("a if b > 3 else 1 / 0", 3),
        ("b > 3 or 1 / 0", True),
        ("round(pi, 2)", 3.14),
        ("round(2.5) + round(3.5)", 6),
        ("round(1234, -2)", 1200),
        ("min(a, b, 2) + max(a, b)", 6),
        ("floor(2.7) + ceil(2.2)", 5),
        ("sqrt(16) + abs(-1)", 5.0),
        ("clamp(12, 0, 10) + lerp(0, 4, 0.5)", 12.0),
        ("sin(pi / 2)", 1.0),
        ("sign(-3)", -1),
        ("2 ** 900 > 1", True),
        ("1\n+ 1", 2),
        ("+".join(["1"] * 140), 140),
    ],
)
def test_expressions(text: str, value: Any) -> None:
    """What is worked out is what it says on paper, and only as far as it matters."""
    found = expressions.evaluate(text, {"a": 3, "b": 4})
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected an expression such as"),
        ("1 +", "expected an expression such as a * 2 + 1, found '1 +'"),
        ("a = 1", "expected an expression such as"),
        ("x + 1", "nothing is called x; there are a, e, pi, tau"),
        ("1 / 0", "expected a number to divide by, found 0"),
        ("0 ** -1", "expected a number to divide by, found 0"),
        ("9 ** 9 ** 9", "expected numbers of at most 1000 bits, found a power of about 1162261467"),
        ("round(5, -1000000000)", "expected at most 300 digits to round to"),
        ("round(5, 0.5)", "as a whole number, found 0.5"),
        ("1e308 * 10", "expected a finite number, found inf"),
        ("10.0 ** 400", "has no value"),
        ("(-8) ** 0.5", "is no real number"),
        ("sqrt(-1)", "has no value"),
        ("exp(1000)", "has no value"),
        ("2 ** 999 * 4", "at most 1000 bits, found one of 1002"),
        ("(" * 180 + "1" + ")" * 180 + "+" + "-" * 160 + "1", "operations within one another"),
        ("-" * 1500 + "1", "expected"),
        ("(" * 900 + ")" * 900, "expected an expression"),
        ("1" * 2001, "expected at most 2000 characters, found 2001"),
        ("1" * 1999, "at most 1000 bits"),
        ("min()", "min cannot take 0 such numbers"),
        ("min(1)", "min cannot take 1 such numbers"),
        ("open('x')", "there is no function open; there are abs,"),
        ("__import__('os')", "there is no function __import__"),
        ("a.real", "expected numbers, operators and functions, found 'a.real'"),
        ("(1).__class__", "expected numbers, operators and functions"),
        ("[1][0]", "expected numbers, operators and functions"),
        ("'a' * 9", "expected numbers, operators and functions"),
        ("(lambda: 1)()", "expected numbers, operators and functions"),
        ("min(*[1])", "expected numbers, operators and functions"),
        ("max(1, 2, key=abs)", "expected numbers, operators and functions"),
        ("1 << 9", "expected numbers, operators and functions"),
        ("f'{a}'", "expected numbers, operators and functions"),
        ("1j", "expected numbers, operators and functions"),
        ("(a := 1)", "expected numbers, operators and functions"),
        ("a\0", "expected"),
    ],
)
def test_what_is_no_arithmetic_is_refused(text: str, message: str) -> None:
    """At once, in one line, with what was found."""
    began = time.perf_counter()
    with pytest.raises(InputError) as caught:
        expressions.evaluate(text, {"a": 1})
    assert message in str(caught.value)
    assert caught.value.input == "expression"
    assert time.perf_counter() - began < 20  # what it guards against would take hours


@given(st.text(alphabet="ab0123456789.+-*/%()<>=, minaxround", max_size=40))
def test_any_text_is_a_number_or_an_input_error(text: str) -> None:
    """Nothing else comes out."""
    with contextlib.suppress(InputError):
        assert math.isfinite(expressions.evaluate(text, {"a": 2, "b": 0.5}))


def test_an_expression_in_a_graph_gives_all_three_kinds(bench: Bench) -> None:
    """INT is cut off towards zero; inputs may be of any kind of number, linked or typed."""
    summed = graph(
        i=("PrimitiveInt", {"value": 3}),
        f=("PrimitiveFloat", {"value": -0.25}),
        r=("MathExpression", {"expression": "a * b - c", "a": "i/0", "b": "f/0", "c": True}),
    )
    assert [bench.values(summed, output) for output in range(3)] == [[-1], [-1.75], [True]]


def test_a_wrong_expression_is_told_before_the_run(bench: Bench) -> None:
    """As a problem of the graph, not as a failure; one that comes over a link fails its node."""
    wrong = graph(m=("MathExpression", {"expression": "1 +"}), p=("PreviewAny", {"source": "m/0"}))
    problems = validate(wrong, bench.registry())
    assert [problem.type for problem in problems] == ["custom_validation_failed"]
    assert "input expression: expected an expression" in problems[0].message
    linked = graph(s=("PrimitiveString", {"value": "1 +"}), r=("MathExpression", {"expression": "s/0"}))
    assert "node r (MathExpression), input expression: expected an expression" in bench.failure(linked)


def test_a_text_is_no_number(bench: Bench) -> None:
    """The input is named, and what to do."""
    failure = bench.failure(graph(r=("MathExpression", {"expression": "a", "a": "3"})))
    assert "input a: expected a number, found '3'; TextToNumber makes one of a text" in failure


@pytest.mark.parametrize(("value", "expected"), [(5, (3, 3.0)), (-0.5, (0, 0.0)), (2.5, (2, 2.5)), (True, (1, 1.0))])
def test_clamp(bench: Bench, value: Any, expected: tuple[int, float]) -> None:
    """Inside the bounds the number is as it is."""
    clamped = graph(r=("Clamp", {"value": value, "minimum": 0.0, "maximum": 3.0}))
    assert (bench.values(clamped, 0)[0], bench.values(clamped, 1)[0]) == expected


def test_bounds_the_wrong_way_round(bench: Bench) -> None:
    """For clamping and for drawing."""
    for type_, more in (("Clamp", {"value": 1}), ("RandomNumber", {})):
        failure = bench.failure(graph(r=(type_, {"minimum": 2.0, "maximum": 1.0, **more})))
        assert "input minimum: expected a minimum of at most the maximum 1.0, found 2.0" in failure


@pytest.mark.parametrize(
    ("value", "format", "text"),
    [(7, "", "7"), (7, "03d", "007"), (7.0, "03d", "007"), (2.345, ".1f", "2.3"), (1234567, ",", "1,234,567")],
)
def test_number_to_text(bench: Bench, value: Any, format: str, text: str) -> None:
    """In Python's format language."""
    assert bench.values(graph(r=("NumberToText", {"value": value, "format": format}))) == [text]


@pytest.mark.parametrize("format", ["999999999d", ".999999999f", "q", "d.x", "{a}", "2.5d"])
def test_a_format_that_is_none_or_too_wide(bench: Bench, format: str) -> None:
    """The input is named; nothing of a gigabyte is made on the way."""
    failure = bench.failure(graph(r=("NumberToText", {"value": 2.5, "format": format})))
    assert "node r (NumberToText), input format: expected a format" in failure


@pytest.mark.parametrize(
    ("text", "expected"),
    [(" 12 ", (12, 12.0)), ("-2.75", (-2, -2.75)), ("1e3", (1000, 1000.0)), ("9007199254740993", (2**53 + 1, 2.0**53))],
)
def test_text_to_number(bench: Bench, text: str, expected: tuple[int, float]) -> None:
    """INT keeps all digits of a whole number."""
    read = graph(r=("TextToNumber", {"text": text}))
    assert (bench.values(read, 0)[0], bench.values(read, 1)[0]) == expected


@pytest.mark.parametrize("text", ["", "three", "nan", "inf", "1" * 400, "9" * 5000])
def test_a_text_that_holds_no_number(bench: Bench, text: str) -> None:
    """Neither words nor what is beyond all numbers."""
    assert "input text: expected a number such as 12 or 0.5" in bench.failure(graph(r=("TextToNumber", {"text": text})))


def test_random_numbers_are_the_same_everywhere() -> None:
    """Golden values: a seed's number must never change, on no machine and with no version of Python."""
    assert [random_number(seed, 0.0, 100.0)[0] for seed in range(6)] == GOLDEN_INTS
    assert random_number(2**64 - 1, -1.0, 1.0)[1] == GOLDEN_FLOAT


GOLDEN_INTS: list[int] = [95, 95, 17, 26, 91, 10]
GOLDEN_FLOAT = 0.805707064600006


def test_random_numbers_fill_their_bounds_evenly() -> None:
    """Each of six faces about as often, both ends among them; FLOAT within its bounds, its mean in the middle."""
    drawn = [random_number(seed, 1.0, 6.0) for seed in range(6000)]
    faces = Counter(whole for whole, _ in drawn)
    assert sorted(faces) == [1, 2, 3, 4, 5, 6]
    assert all(900 < count < 1100 for count in faces.values())
    assert all(1.0 <= real < 6.0 for _, real in drawn)
    assert abs(sum(real for _, real in drawn) / 6000 - 3.5) < 0.05
    assert {random_number(seed, 0.2, 0.8)[0] for seed in range(50)} == {0, 1}
    assert random_number(1, 2.0, 2.0) == (2, 2.0)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{a} of {b}", "3 of cat"),
        ("{a:05d}/{c:.2f}", "00003/0.50"),
        ("{{{a}}} {{b}}", "{3} {b}"),
        ("[{b:>5}|{b:<5}]", "[  cat|cat  ]"),
        ("no field", "no field"),
        ("{d}", "True"),
    ],
)
def test_format_text(bench: Bench, template: str, text: str) -> None:
    """Names with or without a format; doubled braces are braces."""
    values = {"a": 3, "b": "cat", "c": 0.5, "d": True}
    assert bench.values(graph(r=("FormatText", {"template": template, **values}))) == [text]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{x}", "input template: expected one of the fields {a}, found {x}; write {{ for a brace"),
        ("{b}", "expected one of the fields {a}, found {b}"),
        ("{}", "expected one of the fields {a}, found {}"),
        ("{0}", "expected one of the fields {a}, found {0}"),
        ("{a.__class__}", "expected one of the fields {a}, found {a.__class__}"),
        ("{a[0]}", "expected one of the fields {a}, found {a[0]}"),
        ("{a!r}", "expected one of the fields {a}, found {a!r}"),
        ("{a:{a}}", "expected one of the fields {a}, found {a:{a}}"),
        ("{a:999999999}", "expected a format such as 05d, .2f or >12, at most 1000 wide"),
        ("{a", "expected a template, found '{a'"),
        ("a}", "expected a template, found 'a}'"),
    ],
)
def test_a_template_reaches_nothing_but_its_values(bench: Bench, template: str, message: str) -> None:
    """No attribute, no position, no conversion, no field within a field."""
    assert message in bench.failure(graph(r=("FormatText", {"template": template, "a": 3})))


def test_format_text_takes_no_structure(bench: Bench) -> None:
    """A list's or a picture's form as text is nobody's wish."""
    failure = bench.failure(graph(r=("FormatText", {"template": "{a}", "a": {"x": 1}})))
    assert "input a: expected a text, a number or a truth value, found a dict" in failure


def test_a_random_choice_is_the_same_everywhere() -> None:
    """Golden values, as for numbers; empty lines do not count."""
    drawn = [texts.random_choice("red\n\ngreen\n  blue ", seed) for seed in range(8)]
    assert drawn == GOLDEN_CHOICES


GOLDEN_CHOICES = [*[("green", 1)] * 2, ("red", 0), ("green", 1), *[("red", 0)] * 2, ("green", 1), ("blue", 2)]


def test_weights_make_choices_more_likely() -> None:
    """Twice the weight is twice as often; 0 is never; what is no weight is text."""
    drawn = Counter(texts.random_choice("a::2\nb\nc :: 0.5\nd::0\nx::y", seed)[0] for seed in range(9000))
    assert set(drawn) == {"a", "b", "c", "x::y"}
    assert [round(drawn[name] / 1000) for name in ("a", "b", "x::y", "c")] == [4, 2, 2, 1]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("", "expected at least one line to choose from, found none"),
        ("a::0", "found only such as are never drawn"),
        ("a::-1", "expected a weight of 0 or more, found -1"),
    ],
)
def test_nothing_to_choose_from(choices: str, message: str) -> None:
    """The input is named."""
    with pytest.raises(InputError, match=message) as caught:
        texts.random_choice(choices, 0)
    assert caught.value.input == "choices"
