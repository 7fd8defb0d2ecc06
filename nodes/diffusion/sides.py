"""What the sides of guidance give each other, so that they differ in the prompt alone: areas, controls, changes of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from nodes.diffusion.conditioning import Entry


def match_areas(side: Sequence[Entry], other: Sequence[Entry]) -> tuple[Entry, ...]:
    """``other`` with an entry added for every area of ``side``: what encloses it most closely, told for that area.

    So that both sides of guidance see the same crops of the picture.
    """
    matched = list(other)
    for entry in side:
        if entry.area is None:
            continue
        enclosing = [e for e in matched if e.area is None or e.area.contains(entry.area)]
        if not enclosing:
            continue
        closest = min(enclosing, key=lambda e: math.inf if e.area is None else e.area.size)
        if closest.area != entry.area:
            context, read = closest.context, closest.control_context
            name = f"{closest.name} over {entry.name}"
            matched.append(replace(entry, context=context, inputs=closest.inputs, control_context=read, name=name))
    return tuple(matched)


def with_controls(side: Sequence[Entry], other: Sequence[Entry]) -> tuple[Entry, ...]:
    """``other`` with the controls that ``side`` shares, each given to the next entry in turn; as it is where it has some of its own.

    Entries with an area neither give nor take.
    """
    shared = [
        entry.control for entry in side if entry.shares_control and entry.control is not None and entry.area is None
    ]
    places = [place for place, entry in enumerate(other) if entry.area is None]
    if not places or any(other[place].control is not None for place in places):
        return tuple(other)
    found = list(other)
    for number, control in enumerate(shared):
        place = places[number % len(places)]
        found[place] = replace(found[place], control=control)
    return tuple(found)


def matched(*sides: Sequence[Entry]) -> tuple[tuple[Entry, ...], ...]:
    """The sides of guidance, each with the areas of the others, and with the controls that the first one shares."""
    found = [tuple(side) for side in sides]
    for one in range(len(found)):
        for other in range(len(found)):
            if one != other:
                found[other] = match_areas(found[one], found[other])
    controlled = (found[0], *(with_controls(found[0], side) for side in found[1:]))
    return (*controlled[:1], *(match_changes(found[0], side) for side in controlled[1:]))


def match_changes(side: Sequence[Entry], other: Sequence[Entry]) -> tuple[Entry, ...]:
    """``other`` with the shared changes of ``side``, each given to the next entry in turn, where it has none of its own; those of areas
    are left to ``match_areas``."""
    changes = [entry.shared for entry in side if entry.area is None and entry.shared]
    places = [place for place, entry in enumerate(other) if entry.area is None]
    if any(other[place].shared for place in places):
        return tuple(other)
    given = {places[number % len(places)]: change for number, change in enumerate(changes)} if places else {}
    return tuple(replace(it, shared=given[place]) if place in given else it for place, it in enumerate(other))
