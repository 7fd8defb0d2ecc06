"""Parts of faces, coloured by the points that poses have of them."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import InputError
from nodes.preprocess_poses import colour_face_parts

SKIN, LEFT, RIGHT, LOWER = (0, 153, 255), (0, 204, 153), (255, 153, 0), (255, 0, 102)


def face(*, relative: bool = False) -> dict[str, Any]:
    """A face from 10 to 90 of a canvas of 100: a square of skin, eyes of 10 pixels, a mouth open from 60 to 80; the nose is not there."""
    points = [(0.0, 0.0, 0.0)] * 68
    chin = [(10, 20), (10, 90), (90, 90), (90, 20)]
    for number in range(17):
        points[number] = (*chin[min(number // 4, 3)], 1.0)
    for number in range(17, 27):
        points[number] = (10 + 80 * (number - 17) / 9, 10, 1.0)
    for first, left in ((36, 25), (42, 65)):
        for number, (x, y) in enumerate([(0, 5), (0, 0), (10, 0), (10, 5), (10, 10), (0, 10)]):
            points[first + number] = (left + x, 30 + y, 1.0)
    for number in range(60, 68):
        points[number] = (30 + 40 * (number - 60) / 4, 60, 1.0) if number < 65 else (70 - 20 * (number - 65), 80, 1.0)
    side = 100 if relative else 1
    numbers = [part / scale for point in points for part, scale in zip(point, (side, side, 1), strict=True)]
    return {"people": [{"face_keypoints_2d": numbers}], "canvas_width": 100, "canvas_height": 100}


@pytest.mark.parametrize("relative", [False, True])
def test_parts_are_filled_with_their_colours(relative: bool) -> None:
    """Points in pixels or in parts of the canvas; a part without points is not painted, nor is a person without a face."""
    faceless = {"people": [{"face_keypoints_2d": None}], "canvas_width": 100, "canvas_height": 100}
    found = (colour_face_parts.fn([face(relative=relative), faceless]) * 255).round().int()
    assert found.shape == (2, 100, 100, 3)
    places = {(50, 15): SKIN, (30, 35): LEFT, (70, 35): RIGHT, (50, 65): LOWER, (50, 50): SKIN, (5, 50): (0, 0, 0)}
    assert {at: tuple(found[0, at[1], at[0]].tolist()) for at in places} == places
    assert not found[1].any()


def test_points_alone() -> None:
    found = colour_face_parts.fn([face()], "point", skin="white")
    assert found[0, 90, 10].tolist() == [1, 1, 1]
    assert found[0, 50, 50].max() == 0


def test_what_is_no_colour_or_no_pose_is_said() -> None:
    with pytest.raises(InputError, match=r"expected a colour such as .*, found 'blueish'") as told:
        colour_face_parts.fn([face()], nose="blueish")
    assert told.value.input == "nose"
    with pytest.raises(InputError, match="expected poses with canvas_width") as told:
        colour_face_parts.fn([{}])
    assert told.value.input == "pose_kps"
