"""Nodes of packs written as people write them: each contract they rely on, in every way there is to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.graph.png import read_text
from tests.behaviour.conftest import Stage

Draw = Callable[[str, int], Path]
GREY = ("EmptyImage", {"width": 16, "height": 16, "batch_size": 2, "color": 0x505050})


def test_a_pack_of_pil_and_numpy_makes_pictures(stage: Stage) -> None:
    """0x50 with its upper two bits kept is 0x40, for both pictures of the batch.

    EmptyImage(2) ─▶ PT_Posterize ─▶ save
    """
    outcome = stage.run(
        grey=GREY,
        poster=("PT_Posterize", {"image": "grey/0", "bits": 2}),
        save=("SaveImage", {"images": "poster/0", "filename_prefix": "p"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert [int(picture.max()) for picture in outcome.pictures] == [0x40, 0x40]
    assert [int(picture.min()) for picture in outcome.pictures] == [0x40, 0x40]


def test_a_pack_of_torch_and_comfy_utils_makes_masks(stage: Stage) -> None:
    """A disc of radius 8, one pixel wider all around, at half its size: about (9 / 8)² times as large a share.

    MaskCircle ─▶ MaskGrow(1) ─▶ MaskToSize(16) ─▶ MaskArea
         └───────────────────────────────────────▶ MaskArea
    """
    outcome = stage.run(
        disc=("MaskCircle|mask_tools", {"size": 32, "radius": 8.0}),
        grown=("MaskGrow|mask_tools", {"mask": "disc/0", "pixels": 1}),
        small=("MaskToSize|mask_tools", {"mask": "grown/0", "width": 16, "height": 16, "method": "area"}),
        area=("MaskArea|mask_tools", {"mask": "small/0"}),
        before=("MaskArea|mask_tools", {"mask": "disc/0"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    share, before = float(outcome.text("area")[0]), float(outcome.text("before")[0])
    assert 0.18 < before < 0.21
    assert 1.2 < share / before < 1.45


def test_a_node_is_told_who_it_is_and_what_it_is_part_of(stage: Stage) -> None:
    """Its id, and that no editor's file came with the run. What it keeps in ``self`` is there as long as the process.

    EmptyImage ─▶ PT_Caption ─log─▶ show
    """
    graph = {
        "grey": GREY,
        "caption": ("PT_Caption", {"image": "grey/0", "text": "a", "size": 4, "align": "left"}),
        "show": ("LT_Show", {"value": "caption/1"}),
        "save": ("SaveImage", {"images": "caption/0", "filename_prefix": "c"}),
    }
    first = stage.run(**graph)
    assert first.status == "succeeded", first.errors
    assert first.text("show") == ["node caption, call 1, without workflow"]
    assert tuple(first.pictures[0][4, 4]) == (255, 0, 0)
    graph["caption"] = ("PT_Caption", {"image": "grey/0", "text": "b", "size": 4, "align": "left"})
    call = 1 if stage.mode == "command line" else 2
    assert stage.run(**graph).text("show") == [f"node caption, call {call}, without workflow"]


def test_what_a_node_says_of_its_inputs_is_told_before_anything_runs(stage: Stage) -> None:
    """The size is in the range of the declaration and not in that of the node's own check.

    EmptyImage ─▶ PT_Caption(size=500) ─▶ save
    """
    outcome = stage.run(
        grey=GREY,
        caption=("PT_Caption", {"image": "grey/0", "text": "a", "size": 500, "align": "left"}),
        save=("SaveImage", {"images": "caption/0", "filename_prefix": "c"}),
    )
    assert outcome.status == "InvalidGraph"
    assert "size 500 does not fit on any picture; use 100 or less" in outcome.errors[""]
    assert 'node caption (PT_Caption "Caption 🎨" of pack picture_tools)' in outcome.errors[""]
    assert not list(stage.root.glob("output/*"))


def test_choices_that_are_made_at_run_time_are_those_of_the_moment(stage: Stage, draw: Draw) -> None:
    """A picture that was not there is no choice; once it is, it is.

    PT_LoadFromFolder ─▶ names
    """
    graph = {
        "load": ("PT_LoadFromFolder", {"first": "late.png", "prefix": "la"}),
        "show": ("LT_Show", {"value": "load/1"}),
    }
    draw("early.png", 10)
    outcome = stage.run(**graph)
    assert outcome.status == "InvalidGraph"
    assert 'input first: expected one of early.png, found "late.png"' in outcome.errors[""]
    draw("late.png", 20)
    assert stage.run(**graph).text("show") == ["late.png"]


def test_what_a_node_reads_counts_by_what_it_says_of_it(stage: Stage, draw: Draw) -> None:
    """IS_CHANGED gives a digest of the pictures: another picture is read, the same ones are not where memory keeps them.

    PT_LoadFromFolder ─images─▶ PT_Posterize ─▶ save
    """
    graph = {
        "load": ("PT_LoadFromFolder", {"first": "a.png", "prefix": ""}),
        "poster": ("PT_Posterize", {"image": "load/0", "bits": 8}),
        "save": ("SaveImage", {"images": "poster/0", "filename_prefix": "x"}),
    }
    draw("a.png", 10)
    draw("b.png", 20)
    assert [int(p.max()) for p in stage.run(**graph).pictures] == [10, 20]
    again = stage.run(**graph)
    assert ("load" in again.ran) is not stage.keeps_in_memory
    draw("b.png", 30)
    changed = stage.run(**graph)
    assert [int(p.max()) for p in changed.pictures] == [10, 30]
    assert "load" in changed.ran


def test_what_says_that_it_always_changes_always_runs(stage: Stage) -> None:
    """NaN is equal to nothing; a value that stays the same is.

    LT_Changing(always) ─▶ show
    LT_Changing ─────────▶ show
    """
    graph = {
        "always": ("LT_Changing", {"value": 1, "always": True}),
        "a": ("LT_Show", {"value": "always/0"}),
        "once": ("LT_Changing", {"value": 1, "always": False}),
        "b": ("LT_Show", {"value": "once/0"}),
    }
    stage.run(**graph)
    again = stage.run(**graph)
    assert "always" in again.ran
    assert ("once" in again.ran) is not stage.keeps_in_memory


def test_a_node_may_judge_the_types_of_its_links_itself(stage: Stage) -> None:
    """Both inputs take INT and FLOAT; the node wants them alike.

    PrimitiveInt ───▶ LT_Typed
    PrimitiveFloat ─────┘
    """
    mixed = {
        "i": ("PrimitiveInt", {"value": 1}),
        "f": ("PrimitiveFloat", {"value": 1.0}),
        "typed": ("LT_Typed", {"a": "i/0", "b": "f/0"}),
        "show": ("LT_Show", {"value": "typed/0"}),
    }
    outcome = stage.run(**mixed)
    assert outcome.status == "InvalidGraph"
    assert "both have to be of one type, found ['FLOAT', 'INT']" in outcome.errors[""]
    alike = {**mixed, "typed": ("LT_Typed", {"a": "i/0", "b": "i/0"})}
    assert stage.run(**alike).text("show") == ["int"]


def test_a_pack_may_build_on_the_core_node_that_previews(stage: Stage) -> None:
    """A frame of one white pixel, saved into the temp folder by the class it derives from.

    EmptyImage ─▶ PT_Preview
    """
    outcome = stage.run(grey=GREY, preview=("PT_Preview", {"images": "grey/0"}))
    assert outcome.status == "succeeded", outcome.errors
    assert [item["type"] for item in outcome.ui["preview"]["images"]] == ["temp", "temp"]
    picture = outcome.pictures[0]
    assert picture.shape == (18, 18, 3)
    assert (picture[0] == 255).all()
    assert (picture[1:-1, 1:-1] == 0x50).all()


def test_a_pack_may_save_files_of_its_own(stage: Stage) -> None:
    """The name follows the picture's size, the number the files that are there; the prompt is in the picture.

    EmptyImage ─▶ PT_SaveWithNotes
    """
    graph = {
        "grey": GREY,
        "save": ("PT_SaveWithNotes", {"images": "grey/0", "prefix": "n/%width%x%height%", "notes": "t/0"}),
    }
    graph["t"] = ("PrimitiveString", {"value": "so grey"})
    outcome = stage.run(**graph)
    assert outcome.status == "succeeded", outcome.errors
    assert [item["filename"] for item in outcome.ui["save"]["images"]] == ["16x16_00001_.png", "16x16_00002_.png"]
    folder = stage.root / "output" / "n"
    assert (folder / "16x16_00001_.txt").read_text() == "so grey"
    assert "PT_SaveWithNotes" in read_text((folder / "16x16_00002_.png").read_bytes())["prompt"]
    assert np.array_equal(outcome.pictures[0], outcome.pictures[1])


def test_a_wildcard_takes_and_gives_anything(stage: Stage) -> None:
    """A mask's size goes through a node of any type into one that wants an INT.

    MaskToSize ─width─▶ ShowAnything ─*─▶ LT_IntMath ─▶ show
    """
    outcome = stage.run(
        disc=("MaskCircle|mask_tools", {"size": 8, "radius": 2.0}),
        sized=("MaskToSize|mask_tools", {"mask": "disc/0", "width": 20, "height": 10, "method": "bilinear"}),
        through=("ShowAnything|mask_tools", {"value": "sized/1"}),
        add=("LT_IntMath", {"a": "through/0", "b": 1, "operation": "add"}),
        show=("LT_Show", {"value": "add/0"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert outcome.text("show") == ["21"]


def test_a_pack_with_schemas_is_a_pack_like_any_other(stage: Stage) -> None:
    """Its picture, its text, its async node, its lazy choice and its closed gate.

    ST_Stripes ─stripes─▶ ST_Slow ─▶ save
        └───────about───▶ ST_Pick ─▶ ST_Show
    fails ──────────────────b┘
    ST_Stop ─▶ ST_Show
    """
    outcome = stage.run(
        stripes=("ST_Stripes", {"size": 4, "level": 1.0, "tone": "light"}),
        slow=("ST_Slow", {"value": "stripes/0", "seconds": 0.05}),
        save=("SaveImage", {"images": "slow/0", "filename_prefix": "s"}),
        never=("MathExpression", {"expression": "1 / a", "a": 0}),
        pick=("ST_Pick", {"left": True, "a": "stripes/1", "b": "never/0"}),
        about=("ST_Show", {"value": "pick/0"}),
        stop=("ST_Stop", {"value": 1}),
        closed=("ST_Show", {"value": "stop/0"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    assert outcome.text("about") == ["light stripes by node stripes"]
    assert [int(row[0, 0]) for row in outcome.pictures[0]] == [255, 0, 255, 0]
    assert outcome.warnings == {"closed": "closed for today"}
    assert "never" not in outcome.ran


def test_a_schema_checks_its_inputs_too(stage: Stage) -> None:
    """An odd size is told before anything runs.

    ST_Stripes(size=5) ─▶ save
    """
    outcome = stage.run(
        stripes=("ST_Stripes", {"size": 5, "level": 1.0, "tone": "light"}),
        save=("SaveImage", {"images": "stripes/0", "filename_prefix": "s"}),
    )
    assert outcome.status == "InvalidGraph"
    assert "size 5 is odd; stripes come in pairs" in outcome.errors[""]


def test_a_changed_element_of_a_list_is_one_call_of_a_node_that_is_pure(stage: Stage) -> None:
    """Of three numbers one is another: a pack's node that says it is pure is called for that one; others are called for all.

    ListLines ─▶ TextToNumber ─▶ LT_Thinks ──────▶ show
                      └────────▶ LT_CallsSoFar ─▶ show
    """

    def counts(text: str) -> tuple[list[str], list[int]]:
        outcome = stage.run(
            lines=("ListLines", {"text": text, "skip_empty": True}),
            numbers=("TextToNumber", {"text": "lines/0"}),
            thinks=("LT_Thinks", {"value": "numbers/0"}),
            show=("LT_Show", {"value": "thinks/1"}),
            calls=("LT_CallsSoFar", {"value": "numbers/0"}),
            all=("LT_Show", {"value": "calls/0"}),
        )
        return outcome.text("show"), [int(count) for count in outcome.text("all")]

    first, calls = counts("1\n2\n3")
    second, more = counts("1\n5\n3")
    same = [one == other for one, other in zip(first, second, strict=True)]
    assert same == ([True, False, True] if stage.keeps else [False] * 3)
    again = [0, 1, 2] if stage.mode == "command line" else [3, 4, 5]
    assert [count - calls[0] for count in more] == again


def test_what_a_pack_says_is_pure_is_kept_on_disk(stage: Stage) -> None:
    """The node that says so is known in the next process; the one behind it, which does not, runs again.

    LT_Thinks ─▶ LT_IntMath ─▶ show
    """
    graph = {
        "thinks": ("LT_Thinks", {"value": 1}),
        "add": ("LT_IntMath", {"a": "thinks/0", "b": 1, "operation": "add"}),
        "show": ("LT_Show", {"value": "add/0"}),
    }
    first, second = stage.run(**graph), stage.run(**graph)
    assert first.text("show") == second.text("show") == ["3"]
    assert ("thinks" in second.ran) is not stage.keeps
    assert ("add" in second.ran) is not stage.keeps_in_memory


def test_packs_encode_and_decode_with_the_models_they_are_given(stage: Stage) -> None:
    """The same pictures, to the last pixel, as by way of the core nodes; what packs pass on is a model like any other.

    loader ─CLIP─▶ PT_Prompt ─▶ KSampler ─▶ PT_Decode ─▶ save
        └──CLIP─▶ CLIPTextEncode ─▶ KSampler ─▶ VAEDecode ─▶ save
    """
    sampling = {"seed": 3, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    sampling |= {"model": "load/0", "negative": "no/0", "latent_image": "empty/0"}
    outcome = stage.run(
        load=("CheckpointLoaderSimple", {"ckpt_name": "demo.safetensors"}),
        empty=("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        ours=("PT_Prompt", {"clip": "load/1", "text": "a red (circle:1.2)"}),
        no=("CLIPTextEncode", {"clip": "ours/1", "text": ""}),
        theirs=("CLIPTextEncode", {"clip": "load/1", "text": "a red (circle:1.2)"}),
        a=("KSampler", {**sampling, "positive": "ours/0"}),
        b=("KSampler", {**sampling, "positive": "theirs/0"}),
        one=("PT_Decode", {"samples": "a/0", "vae": "load/2"}),
        two=("VAEDecode", {"samples": "b/0", "vae": "load/2"}),
        save1=("SaveImage", {"images": "one/0", "filename_prefix": "one"}),
        save2=("SaveImage", {"images": "two/0", "filename_prefix": "two"}),
    )
    assert outcome.status == "succeeded", outcome.errors
    first, second = outcome.pictures
    assert first.shape == (64, 64, 3)
    assert first.std() > 1
    assert np.array_equal(first, second)


def test_a_pack_that_reaches_into_a_model_is_told_that_it_cannot(stage: Stage) -> None:
    """The failure names the node, the pack and what is missing.

    loader ─MODEL─▶ PT_ReachesIn ─▶ show
    """
    outcome = stage.run(
        load=("CheckpointLoaderSimple", {"ckpt_name": "demo.safetensors"}),
        patch=("PT_ReachesIn", {"model": "load/0"}),
        show=("LT_Show", {"value": "patch/0"}),
    )
    assert outcome.status == "failed"
    assert "Mezzotint does not provide set_model_unet_function_wrapper of a" in outcome.errors["patch"]
