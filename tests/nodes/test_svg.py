"""Drawings saved as SVG, with the workflow inside them."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any
from xml.etree import ElementTree

import pytest

from engine.errors import InputError, UnreadableWorkflow
from engine.graph import svg
from engine.graph.graph import NodeId
from engine.graph.read import read_workflow
from engine.registry import Registry
from engine.run.executor import Run
from engine.spec import Output, Socket, node
from nodes.diffusion.svg_files import documents
from tests.engine.run.toolbox import graph
from tests.nodes.runs import Bench

CIRCLE = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'
PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {"width": 4}, "_meta": {"title": "größer ]]> <b>"}}}
WORKFLOW = {"nodes": [{"id": 1, "type": "EmptyImage"}], "links": [], "version": 0.4}


class Drawing(Bench):
    """With a node whose output is what it is told."""

    value: Any

    def registry(self) -> Registry:
        @node("Draw", category="test", outputs=[Output("SVG")], pure=False)
        def draw() -> Annotated[Any, Socket("SVG")]:
            return (self.value,)

        registry = super().registry()
        registry.add(draw)
        return registry

    def save(self, value: Any, **metadata: Any) -> Any:
        self.value = value
        run = Run(graph(d=("Draw", {}), s=("SaveSVGNode", {"svg": "d/0"})), metadata=metadata)
        return self.executor().run_sync(run)

    def saved(self, value: Any, **metadata: Any) -> list[Path]:
        result = self.save(value, **metadata)
        assert result.status == "succeeded", result.failures
        items = result.ui[NodeId("s")]["images"]
        return [self.folder / "output" / item["subfolder"] / item["filename"] for item in items]


@pytest.fixture
def drawing(tmp_path: Path) -> Drawing:
    return Drawing(tmp_path)


def test_a_drawing_is_saved_with_the_workflow_where_editors_look_for_it(drawing: Drawing) -> None:
    """In a metadata element, as CDATA; the drawing itself is as it was; the file is read as a workflow again."""
    (path,) = drawing.saved(CIRCLE, prompt=PROMPT, workflow=WORKFLOW)
    assert path.relative_to(drawing.folder / "output").as_posix() == "svg/ComfyUI_00001_.svg"
    text = path.read_text()
    told = re.search(r"<metadata>\s*<!\[CDATA\[([\s\S]*?)\]\]>\s*</metadata>", text)
    assert told is not None
    assert json.loads(told[1]) == {"prompt": PROMPT, "workflow": WORKFLOW}
    assert text.replace(told[0], "") == CIRCLE
    assert ElementTree.fromstring(text)[1].tag == "{http://www.w3.org/2000/svg}circle"
    registry = drawing.registry()
    assert read_workflow(path, registry).editor == WORKFLOW
    (alone,) = drawing.saved(CIRCLE, prompt=PROMPT)
    assert read_workflow(alone, registry).graph == read_workflow(json.dumps(PROMPT).encode(), registry).graph


@pytest.mark.parametrize(
    "value",
    [
        [CIRCLE, CIRCLE.encode()],
        [[CIRCLE], io.BytesIO(CIRCLE.encode())],
        SimpleNamespace(data=[io.BytesIO(CIRCLE.encode()), CIRCLE]),
    ],
)
def test_several_drawings_are_several_files(drawing: Drawing, value: Any) -> None:
    """Without metadata, byte for byte what was given; a stream that was read before is read again."""
    for _ in range(2):
        assert [path.read_text() for path in drawing.saved(value)] == [CIRCLE, CIRCLE]


@pytest.mark.parametrize(
    "document",
    [
        '<?xml version="1.0" encoding="UTF-16"?>\n<svg xmlns="http://www.w3.org/2000/svg"><text>größer</text></svg>',
        '\ufeff<!-- a > b --><!DOCTYPE svg [<!ENTITY n "größer">]><svg title="a>b" x=\'"/>\'><text>&n;</text></svg>',
    ],
)
@pytest.mark.parametrize("encoding", [None, "utf-16"])
def test_encodings_and_what_stands_before_the_root(drawing: Drawing, document: str, encoding: str | None) -> None:
    """All of it is in the file, which says rightly how it is encoded, with the workflow within the root's element."""
    (path,) = drawing.saved(document if encoding is None else document.encode(encoding), prompt=PROMPT)
    metadata, text = ElementTree.fromstring(path.read_bytes())
    assert json.loads(metadata.text or "") == {"prompt": PROMPT}
    assert text.text == "größer"


def test_roots_that_are_empty_or_have_a_prefix() -> None:
    for root in (b"<svg/>", b"<svg />", b'<s:svg xmlns:s="http://www.w3.org/2000/svg" a="/"/>'):
        found = svg.with_text(root, {"prompt": {"a": 1}})
        assert ElementTree.fromstring(found)[0].tag.endswith("metadata")
        assert svg.read_text(found) == {"prompt": '{"a": 1}'}
    other = b"<svg><g><metadata>{}</metadata></g><metadata>by me</metadata></svg>"
    assert svg.read_text(other) == {}
    assert svg.read_text(svg.with_text(other, {"prompt": 1})) == {"prompt": "1"}
    assert svg.with_text(b"<html/>", {"prompt": 1}) == b"<html/>"


def test_a_damaged_drawing_is_said_when_it_is_read(drawing: Drawing) -> None:
    """One that was cut behind its workflow still tells it."""
    whole = svg.with_text(CIRCLE.encode(), {"workflow": WORKFLOW})
    assert read_workflow(whole[:-20], drawing.registry()).editor == WORKFLOW
    with pytest.raises(UnreadableWorkflow, match="the SVG picture is damaged"):
        read_workflow(whole[:100], drawing.registry())
    with pytest.raises(UnreadableWorkflow, match="the SVG picture carries no workflow"):
        read_workflow(CIRCLE.encode(), drawing.registry())
    with pytest.raises(UnreadableWorkflow, match="is no JSON"):
        read_workflow(b'<?xml version="1.0" encoding="klingon"?><svg/>', drawing.registry())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a circle", "expected an SVG in document 1, found data that is no XML .* it begins with 'a circle'"),
        ([CIRCLE, CIRCLE[:-4]], "expected an SVG in document 2, found data that is no XML"),
        (b"\x89PNG\r\n\x1a\n", "found data that is no XML"),
        ("<html><svg/></html>", "found XML that begins with <html>"),
        ('<svg xmlns="http://example.com/"/>', "found XML that begins with <svg>"),
        ([], "expected an SVG document or more, found none"),
        (7, "expected SVG documents as text or bytes, found a int"),
        (b'<?xml version="1.0" encoding="klingon"?><svg/>', "found data that is no XML"),
        (
            "<!DOCTYPE svg [<!ENTITY a0 'xxxxxxxxxx'>"
            + "".join(f"<!ENTITY a{n + 1} '{f'&a{n};' * 10}'>" for n in range(9))
            + "]><svg>&a9;</svg>",
            "found data that is no XML",
        ),
    ],
)
def test_what_is_no_drawing_is_refused(value: Any, said: str) -> None:
    """Also an entity that would become gigabytes."""
    with pytest.raises(InputError, match=said) as caught:
        documents(value)
    assert caught.value.input == "svg"


def test_the_node_that_was_given_no_drawing_is_named(drawing: Drawing) -> None:
    result = drawing.save("<html/>")
    assert "SaveSVGNode" in str(result.failures[0])
    assert not (drawing.folder / "output").exists()
