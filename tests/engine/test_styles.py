"""Files of styles: read, named, and told what is wrong with them."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from engine.errors import InputError, MissingFile
from engine.files import LocalFiles, open_files
from engine.spec import FileChoice
from engine.styles import LARGEST, Style, read_book, read_styles, style_of
from tests.conftest import ROOT

STYLES = FileChoice("styles", entries=True)
NIGHT = {"name": "night", "prompt": "{prompt} at night", "negative_prompt": "daylight"}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("style", "texts", "expected"),
    [
        (Style("s", "{prompt} at night", "daylight"), ("a cat", "blurry"), ("a cat at night", "daylight, blurry")),
        (Style("s", "{prompt} at night", "daylight"), ("a cat", ""), ("a cat at night", "daylight")),
        (Style("s", "{prompt}, {prompt}!", ""), ("a", "b"), ("a, a!", "b")),
        (Style("s", "at night", ""), ("a cat", ""), ("a cat, at night", "")),
        (Style("s", "at night", ""), (" ", ""), ("at night", "")),
        (Style("s", "", "no {prompt} here"), ("a cat", "dog"), ("a cat", "no dog here")),
        (Style("s", "{prompt}", ""), ("{prompt} {0}", "{x}"), ("{prompt} {0}", "{x}")),
    ],
)
def test_a_style_is_put_around_both_texts(style: Style, texts: tuple[str, str], expected: tuple[str, str]) -> None:
    """Without a place for it a text comes before the style, a negative one after it; braces in a text are text."""
    assert style.apply(*texts) == expected


def test_json_and_csv_say_the_same(tmp_path: Path) -> None:
    """The forms that are shared: lists of objects, and tables with quotes, line ends, marks of order and remarks."""
    wanted = (Style("night", "{prompt} at night", "daylight"), Style("löwe", 'a "lion",\nroaring', ""))
    entries = [NIGHT, {"name": " löwe ", "prompt": 'a "lion",\nroaring'}]
    assert read_styles(write(tmp_path / "a.json", entries)) == wanted
    table = '\ufeffname,prompt,negative_prompt\n\nnight,{prompt} at night,daylight\n# a remark,,\nlöwe,"a ""lion"",\nroaring",\n'
    assert read_styles(write(tmp_path / "a.csv", table)) == wanted
    assert (
        read_styles(write(tmp_path / "b.CSV", "name;prompt\r\nnight;{prompt} at night\r\n"))[0].prompt
        == wanted[0].prompt
    )
    assert read_styles(write(tmp_path / "old.csv", "name,text\nnight,dark\n")) == (Style("night", "dark"),)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "[{", "a.json cannot be read as styles: Expecting"),
        ("a.json", {"night": {}}, 'expected a list of {"name", "prompt", "negative_prompt"}, found an object'),
        ("a.json", [NIGHT, 3], "expected an object as entry 2, found a number"),
        ("a.json", [{"prompt": "x"}], "expected a name in entry 1, found none"),
        ("a.json", [{"name": ""}], "expected a name in entry 1, found a text"),
        ("a.json", [{"name": "x", "prompt": ["y"]}], "expected texts in entry 1 ('x'), found a list"),
        ("a.json", "[" * 100_000, "a.json is JSON nested too deeply"),
        ("a.json", b"\xff\xfe\x00", "a.json is no text in UTF-8 (byte 0)"),
        ("a.json", b" " * (LARGEST + 1), "it is larger than 10 MiB"),
        ("a.csv", "title,prompt\nx,y\n", "expected columns name, prompt, negative_prompt, found title, prompt"),
        ("a.csv", "", "expected columns name, prompt, negative_prompt, found none"),
        ("a.csv", "name,prompt\nx," + "y" * 200_000, "field larger than field limit"),
    ],
)
def test_a_broken_file_is_told_in_words(tmp_path: Path, name: str, content: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_styles(write(tmp_path / name, content))
    assert said in str(caught.value)


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    """In one file and in several, in their order; each keeps its texts."""
    paths = [
        write(tmp_path / "a.json", [NIGHT, {"name": "night", "prompt": "second"}]),
        write(tmp_path / "b.csv", "name,prompt\nnight,third\nday,fourth\nnight_1,fifth\n"),
    ]
    book = read_book(paths)
    assert {name: style.prompt for name, (_, style) in book.entries.items()} == {
        "night": "{prompt} at night",
        "night_1": "second",
        "night_2": "third",
        "day": "fourth",
        "night_1_1": "fifth",
    }
    path, style = book.find("night_2")
    assert (path, style_of(path, style.digest)) == (paths[1], style)


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    folders = {kind: tmp_path / kind for kind in ("input", "output", "temp", "state")}
    return open_files(models=[tmp_path / "models", tmp_path / "more"], **folders)


def test_styles_of_all_folders_are_offered_and_broken_files_left_out(
    files: LocalFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong is logged once, and said where a style is not found; a file that is mended is read again."""
    assert list(files.choices(STYLES)) == []
    write(tmp_path / "models" / "styles" / "pack" / "a.json", [NIGHT])
    write(tmp_path / "more" / "styles" / "b.csv", "name,prompt\nday,light\n")
    broken = write(tmp_path / "models" / "styles" / "broken.json", "{")
    write(tmp_path / "models" / "styles" / "notes.txt", "no styles")
    with caplog.at_level(logging.WARNING):
        assert list(files.choices(STYLES)) == ["day", "night"]
        assert list(files.choices(STYLES)) == ["day", "night"]
    assert caplog.text.count("broken.json cannot be read as styles") == 1
    with pytest.raises(
        MissingFile, match=r"none called 'nigth'; nearest: night; broken\.json cannot be read as styles"
    ):
        files.resolve(STYLES, "nigth")
    write(broken, [{"name": "new", "prompt": "x"}])
    os.utime(broken, ns=(1, 1))
    assert list(files.choices(STYLES)) == ["day", "new", "night"]
    assert files.resolve(STYLES, "night").name == "a.json"


def test_a_style_is_known_by_its_texts(files: LocalFiles, tmp_path: Path) -> None:
    """Another style of the same file, or a change to it, is no change; a change of its own is."""
    path = tmp_path / "models" / "styles" / "a.json"

    def digest(night: str, other: str) -> str:
        write(path, [{"name": "night", "prompt": night}, {"name": "other", "prompt": other}])
        os.utime(path, ns=(hash((night, other)) % 10**9, hash((night, other)) % 10**9))
        return files.ref(STYLES, "night").digest

    first = digest("dark", "x")
    assert files.ref(STYLES, "other").digest != first
    assert digest("dark", "y") == first
    assert digest("darker", "y") != first
    with pytest.raises(InputError, match=r"expected the style in a\.json as it was when the run began"):
        style_of(path, files.ref(STYLES, "night").digest + "x")  # type: ignore[arg-type]


def test_the_example_is_a_file_of_styles() -> None:
    """Each of its styles has a place for a prompt."""
    styles = read_styles(ROOT / "models" / "styles" / "mezzotint.json")
    assert len({style.name for style in styles}) == len(styles) >= 5
    assert all("{prompt}" in style.prompt for style in styles)
