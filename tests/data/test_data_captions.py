"""Templates, spoken names, and which class a prompt asks for."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.data import SOURCES
from limner.data.captions import class_values, fields_of, parse_template, render, spoken
from limner.errors import ConfigError, DataError


def test_digits_are_asked_for_in_many_wordings(cache: Path) -> None:
    store = SOURCES.parse({"kind": "digits", "limit": 50}).open(cache)
    assert store.images.shape == (50, 1, 28, 28) and store.class_names == tuple("0123456789")
    captions = store.class_captions(7)
    assert len(captions) >= 8
    assert {"a handwritten digit 7", "the number seven, handwritten", "7", "seven"} <= set(captions)
    i = int((store.labels == 7).argmax())
    assert store.captions_of(i) == captions
    assert len(store.all_captions()) == 10 * len(captions) and store.all_captions() == sorted(store.all_captions())
    for label in range(10):
        assert all(store.label_of_prompt(caption) == label for caption in store.class_captions(label))
    assert store.label_of_prompt("  The NUMBER seven,   handwritten ") == 7
    assert store.label_of_prompt("a handwritten digit 10") is None and store.label_of_prompt("") is None
    with pytest.raises(DataError, match="there are 10 classes"):
        store.class_captions(10)


def test_a_caption_of_two_classes_asks_for_none(cache: Path) -> None:
    store = SOURCES.parse({"kind": "digits", "limit": 50, "captions": ["a digit", "digit {class}"]}).open(cache)
    assert store.label_of_prompt("a digit") is None and store.label_of_prompt("digit 3") == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("7", "seven"),
        ("19", "nineteen"),
        ("20", "twenty"),
        ("42", "forty-two"),
        ("golden_retriever", "golden retriever"),
        ("Cat", "cat"),
        ("123", "123"),
    ],
)
def test_class_names_are_spoken(name: str, words: str) -> None:
    assert spoken(name) == words


@pytest.mark.parametrize(
    "template",
    ["", "  ", "a {class", "a class}", "{}", "{0}", "{class.upper}", "{class[0]}", "{class!r}", "{class:>9}", "{a-b}"],
)
def test_what_is_no_plain_template_is_refused_by_name(template: str) -> None:
    with pytest.raises(ConfigError, match="captions"):
        parse_template(template)
    with pytest.raises(ConfigError):
        SOURCES.parse({"kind": "digits", "captions": [template]})


names = st.text(string.ascii_lowercase + "_", min_size=1, max_size=8)
literals = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(literals, names), min_size=1, max_size=4), literals)
def test_a_template_is_its_literals_and_the_values_of_its_fields(parts: list[tuple[str, str]], last: str) -> None:
    template = "".join(f"{literal}{{{name}}}" for literal, name in parts) + last
    values = {name: f"<{name}>" for _, name in parts}
    texts = ["<text>"] if "text" in values else []
    expected = " ".join(("".join(f"{literal}<{name}>" for literal, name in parts) + last).split())
    assert render([template], values, texts) == [expected]
    assert fields_of([template]) == set(values)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_template_or_a_clear_error(template: str) -> None:
    try:
        parse_template(template)
    except ConfigError as error:
        assert len(str(error).splitlines()) <= 10


def test_fields_without_a_value_are_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"there is no value for \{clas\}.*Did you mean 'class'"):
        render(["a {clas}"], class_values(["cat"], 0))
    with pytest.raises(DataError, match="5000 characters"):
        render(["{text}"], {}, ["a" * 5000])
    assert render(["{text}", "{class}: {text}"], {"class": "cat"}, ["x", "y"]) == ["x", "y", "cat: x", "cat: y"]
    assert render(["{{{class}}}"], {"class": "cat"}) == ["{cat}"]
