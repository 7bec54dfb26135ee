"""Scenes: said, drawn and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from limner.data import SOURCES
from limner.data.scenes import COLOURS, RELATIONS, SHAPES, WIDTHS, Scene, Thing, draw, parse
from limner.data.shapes import Shapes, all_pairs
from limner.data.verify import read, verify
from limner.errors import ConfigError, DataError, PromptError

things = st.builds(Thing, st.sampled_from(SHAPES), st.sampled_from(list(COLOURS)), st.sampled_from(list(WIDTHS)))
scenes = st.one_of(
    st.builds(lambda a: Scene((a,)), things),
    st.builds(lambda a: Scene((a, a)), things),
    st.builds(lambda a, b, r: Scene((a, b), r), things, things, st.sampled_from(list(RELATIONS))),
)


def spoiled(image: np.ndarray, rng: np.random.Generator, blur: float, noise: float) -> np.ndarray:
    soft = ndimage.gaussian_filter(image.astype(float), (0, blur, blur)) + rng.normal(0, noise, image.shape)
    return np.clip(np.rint(soft), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("blur", "noise"), [(0.0, 0.0), (0.6, 12.0)])
@pytest.mark.parametrize("side", [32, 64])
def test_the_verifier_is_right_on_true_scenes(side: int, blur: float, noise: float) -> None:
    rng, source, wrong = np.random.default_rng(3), Shapes(), 0
    num = 300 if side == 32 else 100
    for i in range(num):
        scene = source.scene(rng, held_out=i % 2 == 0)
        wrong += not verify(spoiled(draw(scene, side, rng), rng, blur * side / 32, noise), scene)["all"]
    assert wrong <= num // 100


def changed(scene: Scene, key: str) -> Scene:
    thing, *rest = scene.things
    if key == "relation":
        return Scene(
            scene.things,
            {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}[scene.relation or ""],
        )
    if key == "count":
        return Scene((thing,)) if rest else Scene((thing, thing))
    names = {"shape": list(SHAPES), "colour": list(COLOURS), "size": list(WIDTHS)}[key]
    other = names[(names.index(getattr(thing, key)) + 1) % len(names)]
    return Scene((Thing(**{"shape": thing.shape, "colour": thing.colour, "size": thing.size, key: other}), *rest), scene.relation)


@pytest.mark.parametrize("key", ["shape", "colour", "size", "relation", "count"])
def test_the_verifier_names_exactly_what_is_wrong(key: str) -> None:
    rng, source, checked, right = np.random.default_rng(4), Shapes(), 0, 0
    while checked < 60:
        scene = source.scene(rng, held_out=False)
        if key == "relation" and (scene.relation is None or scene.things[0] == scene.things[1]):
            continue
        if len(set(scene.things)) < len(scene.things) and key not in ("relation", "count"):
            continue
        checked += 1
        found = verify(draw(scene, 32, rng), changed(scene, key))
        assert not found["all"], (scene, key)
        right += found[key] is False
    assert right >= 57  # another matching may explain the same picture by another fault


def test_nothing_and_noise_are_no_scene() -> None:
    rng = np.random.default_rng(0)
    for image in (
        np.zeros((3, 32, 32)),
        np.full((3, 32, 32), 255),
        rng.integers(0, 256, (3, 32, 32)),
        rng.integers(0, 60, (3, 32, 32)),
    ):
        assert not any(
            verify(image.astype(np.uint8), scene.captions()[0])["all"] for _, scene in Shapes().prompts(5, held_out=False)
        )
    assert read(np.zeros((3, 32, 32), np.uint8)) == []
    with pytest.raises(DataError, match="a picture is"):
        verify(np.zeros((32, 32, 3), np.uint8), "a red circle")


@settings(max_examples=200, deadline=None)
@given(scenes)
def test_every_caption_of_a_scene_asks_for_that_scene(scene: Scene) -> None:
    for caption in scene.captions():
        asked = parse(caption.upper() + " .")
        assert asked == scene or (
            asked.things == scene.things[::-1]
            and RELATIONS[asked.relation or ""] == tuple(-v for v in RELATIONS[scene.relation or ""])
        )
    assert Scene.from_dict(scene.as_dict()) == scene


def test_prompts_may_say_less() -> None:
    assert parse("two crosses") == Scene((Thing("cross"), Thing("cross")))
    assert parse("a circle to the left of a blue square") == Scene((Thing("circle"), Thing("square", "blue")), "left of")
    image = draw(parse("a small red circle"), 32, np.random.default_rng(0))
    assert verify(image, "a circle") == {"count": True, "shape": True, "all": True}
    assert verify(image, "a large circle") == {"count": True, "shape": True, "size": False, "all": False}


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a small orange circle", "'orange' is unknown"),
        ("a red squar", "Did you mean 'square'"),
        ("", "a shape is missing"),
        ("red", "a shape is missing"),
        ("a circle red", "'red' stands where it cannot"),
        ("two circles above a square", "one thing"),
    ],
)
def test_what_is_no_scene_is_named(prompt: str, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        parse(prompt)


def test_held_out_pairs_are_never_trained_on(cache: Path) -> None:
    source = SOURCES.parse({"kind": "shapes", "count": 600, "test": 0.2})
    assert isinstance(source, Shapes)
    store = source.open(cache)
    held = set(source.held_out_pairs())

    def pairs(i: int) -> set[tuple[str | None, str]]:
        return {(thing.colour, thing.shape) for thing in Scene.from_dict(store.attributes[i]["scene"]).things}

    trained = [pairs(i) for i in store.split("train")]
    assert not any(found & held for found in trained)
    assert set().union(*trained) == set(all_pairs()) - held
    test = store.split("test")
    assert len(test) == 120 and sum(pairs(i) <= held for i in test) == 60
    assert sum(store.attributes[i]["held_out"] for i in test) == 60
    for i in range(0, 600, 37):
        assert verify(np.asarray(store.images[i]), store.captions_of(i)[1])["all"]
        assert len(store.captions_of(i)) == 3
    assert len(store.split("judge")) == 0 and store.class_names == ()
    for held_out in (False, True):
        prompts = source.prompts(50, held_out=held_out)
        assert prompts == source.prompts(50, held_out=held_out)
        assert all(({(t.colour, t.shape) for t in scene.things} <= held) == held_out for _, scene in prompts)


def test_a_larger_picture_shows_the_same_scene() -> None:
    scene = parse("a small red circle above a large blue square")
    small, large = (draw(scene, side, np.random.default_rng(1)) for side in (32, 64))
    halved = large.reshape(3, 32, 2, 32, 2).mean(axis=(2, 4))
    assert np.abs(small - halved).mean() < 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"held_out": ["red"]}, "a shape is missing"),
        ({"held_out": ["small red circle"]}, "no pair"),
        ({"captions": ["x"]}, "leave `captions`"),
        ({"held_out": [f"{colour} circle" for colour in COLOURS]}, "untrained"),
        ({"size": 48}, "size"),
        ({"channels": 1}, "channels"),
    ],
)
def test_wrong_shapes_configs_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SOURCES.parse({"kind": "shapes", **given})
