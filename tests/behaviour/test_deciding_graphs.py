"""Graphs that decide while they run: each drawn, and run in every way there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.behaviour.conftest import Stage


def test_a_branch_nobody_asks_for_never_runs(stage: Stage) -> None:
    """The switch asks for one side; what feeds the other, a checkpoint loader among it, is not touched.

    good ──on_true──▶ switch ──▶ show
    loader ─▶ decode ──on_false──┘
    """
    outcome = stage.run(
        loader=("CheckpointLoaderSimple", {"ckpt_name": "demo.safetensors"}),
        latent=("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        decode=("VAEDecode", {"samples": "latent/0", "vae": "loader/2"}),
        good=("LT_IntMath", {"a": 20, "b": 22, "operation": "add"}),
        switch=("LT_LazySwitch", {"switch": True, "on_true": "good/0", "on_false": "decode/0"}),
        show=("LT_Show", {"value": "switch/0"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert outcome.text("show") == ["42"]
    assert set(outcome.ran) == {"good", "switch", "show"}


def test_our_own_switch_is_as_lazy(stage: Stage) -> None:
    """The branch that is not chosen would fail.

    zero ─▶ divide ──if_false──▶ Switch ──▶ show
    fine ───────────if_true────┘
    """
    outcome = stage.run(
        divide=("MathExpression", {"expression": "1 / a", "a": 0}),
        fine=("PrimitiveInt", {"value": 7}),
        switch=("Switch", {"condition": True, "if_true": "fine/0", "if_false": "divide/0"}),
        show=("PreviewAny", {"source": "switch/0"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert outcome.text("show") == ["7"]
    assert "divide" not in outcome.ran


def test_a_node_asks_again_until_it_has_enough(stage: Stage) -> None:
    """4 + 5 is not yet 9 or more without the second; the third and fourth are never computed.

    4 ─value0─▶ LT_LazySum(enough=9) ─▶ sum, asked
    5 ─value1──┘ │ │
    never ─value2┘ │
    never ─value3──┘
    """
    numbers = {f"n{i}": ("LT_IntMath", {"a": i + 4, "b": 0, "operation": "add"}) for i in range(4)}
    outcome = stage.run(
        **numbers,
        lazy=("LT_LazySum", {"enough": 9, **{f"value{i}": f"n{i}/0" for i in range(4)}}),
        sum=("LT_Show", {"value": "lazy/0"}),
        asked=("LT_Show", {"value": "lazy/1"}),
    )
    assert outcome.text("sum") == ["9"]
    assert outcome.text("asked") == ["2"]
    assert {"n0", "n1"} <= set(outcome.ran)
    assert not {"n2", "n3"} & set(outcome.ran)


def test_a_node_becomes_others_and_their_pictures_are_its_own(stage: Stage) -> None:
    """Blue, and its negative.

    LT_Expanding ═▶ (EmptyImage ─▶ ImageInvert) ─▶ two SaveImage
    """
    outcome = stage.run(
        both=("LT_Expanding", {"size": 4, "color": 0x0000FF}),
        plain=("SaveImage", {"images": "both/0", "filename_prefix": "a"}),
        inverted=("SaveImage", {"images": "both/1", "filename_prefix": "b"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    colours = sorted(tuple(int(c) for c in picture[0, 0]) for picture in outcome.pictures)
    assert colours == [(0, 0, 255), (255, 255, 0)]
    assert "both.0.0.1" in outcome.ran


def test_equal_expansions_share_their_nodes(stage: Stage) -> None:
    """Two nodes that become the same: what is inside runs once.

    LT_Expanding ═▶ (EmptyImage ─▶ ImageInvert) ─▶ save
    LT_Expanding ═▶ (the same) ─────────────────▶ save
    """
    outcome = stage.run(
        one=("LT_Expanding", {"size": 4, "color": 255}),
        two=("LT_Expanding", {"size": 4, "color": 255}),
        a=("SaveImage", {"images": "one/1", "filename_prefix": "a"}),
        b=("SaveImage", {"images": "two/1", "filename_prefix": "b"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert len(outcome.pictures) == 2
    inner = [node for node in outcome.ran if "." in node]
    assert len(inner) == 2


def test_a_loop_carries_its_value_from_turn_to_turn(stage: Stage) -> None:
    """Doubled five times: 32. The close node copies what lies between the two, again and again.

    LT_ForOpen(5) ─value─▶ × 2 ─▶ LT_ForClose ─▶ show
          └────────────flow──────────┘
    """
    outcome = stage.run(
        open=("LT_ForOpen", {"remaining": 5, "initial_value1": 1}),
        double=("LT_IntMath", {"a": "open/2", "b": 2, "operation": "multiply"}),
        close=("LT_ForClose", {"flow": "open/0", "initial_value1": "double/0"}),
        show=("LT_Show", {"value": "close/0"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert outcome.text("show") == ["32"]


def test_a_loop_gathers_what_each_turn_makes(stage: Stage) -> None:
    """3, 2, 1 are gathered and spread again: the last node is called for each.

    LT_ForOpen(3) ─remaining─▶ LT_Accumulate ─▶ LT_ForClose ─▶ to list ─▶ show
          ├─value1────────────────┘                 │
          └────────────flow─────────────────────────┘
    """
    outcome = stage.run(
        open=("LT_ForOpen", {"remaining": 3}),
        gather=("LT_Accumulate", {"to_add": "open/1", "accumulation": "open/2"}),
        close=("LT_ForClose", {"flow": "open/0", "initial_value1": "gather/0"}),
        spread=("LT_AccumulationToList", {"accumulation": "close/0"}),
        show=("LT_Show", {"value": "spread/0"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert outcome.text("show") == ["3", "2", "1"]


def test_lists_of_unequal_length_walk_together_and_the_last_repeats(stage: Stage) -> None:
    """1, 2, 3 and 10, 11: 11, 13, 14.

    range 1..3 ──a──▶ add ─▶ show
    range 10..11 ─b──┘
    """
    outcome = stage.run(
        three=("LT_Range", {"count": 3, "start": 1}),
        two=("LT_Range", {"count": 2, "start": 10}),
        add=("LT_IntMath", {"a": "three/0", "b": "two/0", "operation": "add"}),
        show=("LT_Show", {"value": "add/0"}),
    )
    assert outcome.text("show") == ["11", "13", "14"]


def test_a_node_may_take_whole_lists_and_any_number_of_inputs(stage: Stage) -> None:
    """Two masks by two inputs that no declaration names, joined in one call.

    circle(4) ─inner─▶ MasksTogether ─▶ count
    circle(8) ─outer──┘      └────────▶ area
    """
    outcome = stage.run(
        small=("MaskCircle|mask_tools", {"size": 32, "radius": 4.0}),
        large=("MaskCircle|mask_tools", {"size": 32, "radius": 8.0}),
        both=("MasksTogether|mask_tools", {"how": "multiply", "inner": "small/0", "outer": "large/0"}),
        count=("ShowAnything|mask_tools", {"value": "both/1"}),
        area=("MaskArea|mask_tools", {"mask": "both/0"}),
        alone=("MaskArea|mask_tools", {"mask": "small/0"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert outcome.text("count") == ["2"]
    assert outcome.text("area") == outcome.text("alone")


def test_async_nodes_wait_beside_each_other(stage: Stage) -> None:
    """Three nodes sleep; each began before any was done.

    1 ─▶ sleep ─▶ began, ended
    2 ─▶ sleep ─▶ began, ended
    3 ─▶ sleep ─▶ began, ended
    """
    sleepers = {f"s{i}": ("LT_Sleep", {"value": i, "seconds": 0.3}) for i in range(3)}
    shows = {
        f"{what}{i}": ("LT_Show", {"value": f"s{i}/{slot}"}) for i in range(3) for what, slot in (("b", 1), ("e", 2))
    }
    outcome = stage.run(**sleepers, **shows)
    began = [float(outcome.text(f"b{i}")[0]) for i in range(3)]
    ended = [float(outcome.text(f"e{i}")[0]) for i in range(3)]
    assert max(began) < min(ended)


def test_a_blocked_value_stops_what_depends_on_it_and_nothing_else(stage: Stage) -> None:
    """One gate is silent, one says why; the third output comes.

    1 ─▶ gate (closed) ─▶ add ─▶ show
    2 ─▶ gate (closed, "not today") ─▶ add ─▶ show
    3 ─▶ show
    """
    outcome = stage.run(
        silent=("LT_Gate", {"value": 1, "block": True}),
        after=("LT_IntMath", {"a": "silent/0", "b": 1, "operation": "add"}),
        nothing=("LT_Show", {"value": "after/0"}),
        loud=("LT_Gate", {"value": 2, "block": True, "verbose": True, "message": "not today"}),
        behind=("LT_IntMath", {"a": "loud/0", "b": 1, "operation": "add"}),
        neither=("LT_Show", {"value": "behind/0"}),
        other=("LT_Show", {"value": 3}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert set(outcome.ui) == {"other"}
    assert outcome.warnings == {"behind": "not today"}
    assert set(outcome.ran) == {"silent", "loud", "other"}


def test_only_chosen_outputs_run(stage: Stage) -> None:
    """Of two outputs one is asked for; what only the other needs is left alone.

    1 ─▶ add ─▶ left (asked for)
    2 ─▶ add ─▶ right
    """
    outcome = stage.run(
        "left",
        a=("LT_IntMath", {"a": 1, "b": 1, "operation": "add"}),
        left=("LT_Show", {"value": "a/0"}),
        b=("LT_IntMath", {"a": 2, "b": 2, "operation": "add"}),
        right=("LT_Show", {"value": "b/0"}),
    )
    assert outcome.text("left") == ["2"]
    assert set(outcome.ran) == {"a", "left"}


def test_each_failure_is_told_and_the_rest_goes_on(stage: Stage) -> None:
    """Two expressions cannot be computed; the third output comes.

    1 / 0 ─▶ show
    log(-1) ─▶ show
    3 ─▶ show
    """
    outcome = stage.run(
        one=("MathExpression", {"expression": "1 / a", "a": 0}),
        first=("PreviewAny", {"source": "one/1"}),
        two=("MathExpression", {"expression": "a", "a": 1, "b": 2, "c": 3}),
        second=("LT_Show", {"value": "two/0"}),
        three=("MathExpression", {"expression": "sqrt(0 - a)", "a": 1}),
        third=("PreviewAny", {"source": "three/1"}),
    )
    assert outcome.status == "failed"
    assert set(outcome.errors) == {"one", "three"}
    assert outcome.text("second") == ["1"]


def test_or_the_first_failure_ends_the_run(stage: Stage) -> None:
    """As clients of ComfyUI expect it, where they ask for it.

    1 / 0 ─▶ show
    slow ─▶ slow ─▶ show
    """
    stage.stop_on_failure = True
    outcome = stage.run(
        one=("MathExpression", {"expression": "1 / a", "a": 0}),
        first=("PreviewAny", {"source": "one/1"}),
        slow=("LT_Sleep", {"value": 1, "seconds": 0.5}),
        slower=("LT_Sleep", {"value": "slow/0", "seconds": 0.5}),
        second=("LT_Show", {"value": "slower/0"}),
    )
    assert outcome.status == "failed"
    assert set(outcome.errors) == {"one"}
    assert "second" not in outcome.ran


def test_what_is_known_is_not_computed_again(stage: Stage) -> None:
    """A pack's results last as long as the process; without the cache nothing does.

    range ─▶ add ─▶ show
    """
    graph = {
        "range": ("LT_Range", {"count": 3, "start": 1}),
        "add": ("LT_IntMath", {"a": "range/0", "b": 1, "operation": "add"}),
        "show": ("LT_Show", {"value": "add/0"}),
    }
    first, second = stage.run(**graph), stage.run(**graph)
    assert first.text("show") == second.text("show") == ["2", "3", "4"]
    assert second.ran == (() if stage.keeps_in_memory else first.ran)


def test_a_pack_in_front_does_not_cost_the_work_behind_it(stage: Stage) -> None:
    """The pack's mask is made anew in another process; what our own slow node makes of it is known by what it is given.

    MaskCircle (pack, memory only) ─▶ MaskToImage... ─▶ save
    """
    graph = {
        "blank": ("EmptyImage", {"width": 8, "height": 8, "batch_size": 1, "color": 0x404040}),
        "poster": ("PT_Posterize", {"image": "blank/0", "bits": 1}),
        "save": ("SaveImage", {"images": "poster/0", "filename_prefix": "p"}),
    }
    first, second = stage.run(**graph), stage.run(**graph)
    assert [int(picture[0, 0, 0]) for picture in (*first.pictures, *second.pictures)] == [0, 0]
    if stage.keeps_in_memory:
        assert second.ran == ()
    elif stage.keeps:
        assert "poster" in second.ran
        assert "save" in second.cached
    else:
        assert set(second.ran) == set(first.ran)


def test_a_picture_of_a_deciding_graph_carries_what_made_it(stage: Stage) -> None:
    """The prompt in the file is the one that was asked for, whatever the nodes became.

    LT_Expanding ═▶ (...) ─▶ save
    """
    outcome = stage.run(
        both=("LT_Expanding", {"size": 4, "color": 0x0000FF}),
        plain=("SaveImage", {"images": "both/0", "filename_prefix": "a"}),
    )
    from engine.graph.png import read_text

    (item,) = outcome.ui["plain"]["images"]
    chunks = read_text((stage.root / "output" / item["filename"]).read_bytes())
    assert set(json.loads(chunks["prompt"])) == {"both", "plain"}


def test_our_own_loop_goes_on_while_a_condition_holds(stage: Stage) -> None:
    """Doubled until it is 100 or more: 1, 2, 4 ... 128, collected on the way.

    LoopStart(initial=1) ─carried─▶ a * 2 ─▶ LoopEnd ─▶ carried, collected, count
                                      └─▶ < 100 ─go_on─┘
    """
    outcome = stage.run(
        start=("LoopStart", {"initial": 1, "count": -1}),
        double=("MathExpression", {"expression": "a * 2", "a": "start/3"}),
        more=("Compare", {"a": "double/0", "b": 100, "operator": "<"}),
        end=("LoopEnd", {"loop": "start/0", "carried": "double/0", "collect": "double/0", "go_on": "more/0"}),
        carried=("PreviewAny", {"source": "end/0"}),
        all=("PreviewAny", {"source": "end/1"}),
        count=("PreviewAny", {"source": "end/2"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert outcome.text("carried") == ["128"]
    assert outcome.text("all") == ["2", "4", "8", "16", "32", "64", "128"]
    assert outcome.text("count") == ["7"]


def test_loops_lie_within_loops(stage: Stage) -> None:
    """Three turns of two: each adds the outer turn's number plus one: (1 + 1) + (2 + 2) + (3 + 3).

    LoopStart(3) ─carried─▶ LoopStart(2) ─carried─▶ a + b + 1 ─▶ LoopEnd ─▶ LoopEnd ─▶ show
         └───────index──────────────────────────────▶ b ┘
    """
    outcome = stage.run(
        outer=("LoopStart", {"initial": 0, "count": 3}),
        inner=("LoopStart", {"initial": "outer/3", "count": 2}),
        add=("MathExpression", {"expression": "a + b + 1", "a": "inner/3", "b": "outer/2"}),
        within=("LoopEnd", {"loop": "inner/0", "carried": "add/0"}),
        end=("LoopEnd", {"loop": "outer/0", "carried": "within/0"}),
        show=("PreviewAny", {"source": "end/0"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert outcome.text("show") == ["12"]


def test_each_picture_of_a_folder_goes_its_way(stage: Stage, draw: Callable[[str, int], Path]) -> None:
    """Two pictures, inverted, saved under their names; a third one later is one more.

    LoadImagesFromFolder ─IMAGE─▶ ImageInvert ─▶ SaveImages
                └──────────name────────────────────┘
    """
    graph = {
        "load": ("LoadImagesFromFolder", {"folder": ".", "pattern": "*.png", "limit": 0}),
        "invert": ("ImageInvert", {"image": "load/0"}),
        "save": (
            "SaveImages",
            {"images": "invert/0", "names": "load/2", "template": "{name}", "format": "png", "quality": 90, "first": 1},
        ),
    }
    draw("a.png", 10)
    draw("b.png", 20)
    outcome = stage.run(**graph)
    assert outcome.status == "succeeded", outcome.errors
    assert [item["filename"] for item in outcome.ui["save"]["images"]] == ["a.png", "b.png"]
    assert [int(picture[0, 0, 0]) for picture in outcome.pictures] == [245, 235]
    draw("c.png", 30)
    more = stage.run(**graph)
    assert [item["filename"] for item in more.ui["save"]["images"]] == ["a_2.png", "b_2.png", "c.png"]
    assert int(more.pictures[2][0, 0, 0]) == 225


def test_what_fails_inside_is_told_at_the_node_one_sees(stage: Stage) -> None:
    """The loop's body divides by zero in its third turn: the failure is shown at the node that was drawn.

    LoopStart(5) ─index─▶ 1 / (2 - a) ─▶ LoopEnd ─▶ show
    """
    outcome = stage.run(
        start=("LoopStart", {"count": 5}),
        divide=("MathExpression", {"expression": "1 / (2 - a)", "a": "start/2"}),
        end=("LoopEnd", {"loop": "start/0", "collect": "divide/1"}),
        show=("PreviewAny", {"source": "end/1"}),
    )
    assert outcome.status == "failed"
    assert list(outcome.errors) == ["divide"]
    assert "expected a number to divide by, found 0" in outcome.errors["divide"]
