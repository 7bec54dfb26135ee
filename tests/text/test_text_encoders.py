"""Captions in, Conditioning out: what is equal, what is refused, and what survives saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from limner.errors import CheckpointError, ConfigError, PromptError
from limner.text import Labels, Transformer

CAPTIONS = ["a handwritten digit 7", "the number seven, handwritten", "the digit three drawn by hand", "3"]
LABELS = {"a shirt": 0, "shirt": 0, "an ankle boot": 1, "ankle boot": 1, "bag": 2}


def transformer(**changes: Any) -> Any:
    torch.manual_seed(0)
    encoder = Transformer(**({"width": 16, "depth": 2, "heads": 2, "length": 8} | changes)).build(CAPTIONS, {})
    with torch.no_grad():  # layers start at zero; a trained encoder's do not
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


def labels() -> Any:
    torch.manual_seed(0)
    return Labels(width=16).build([], LABELS)


# ---------------------------------------------------------------------------------------------------- both


@pytest.mark.parametrize("make", [transformer, labels])
def test_shapes_are_those_of_the_legend(make: Any) -> None:
    prompts = ["3", "a handwritten digit 7"] if make is transformer else ["bag", "shirt"]
    found = make().encode([*prompts, ""])
    length = found.tokens.shape[1]
    assert found.tokens.shape == (3, length, 16) and found.pooled.shape == (3, 16)
    assert found.mask.shape == (3, length) and found.mask.dtype == torch.bool and found.mask[:, 0].all()


@pytest.mark.parametrize("make", [transformer, labels])
@pytest.mark.parametrize("tokens", ["words", "pieces"])
def test_a_saved_encoder_is_the_same_encoder(make: Any, tokens: str, tmp_path: Path) -> None:
    encoder = make(tokens=tokens) if make is transformer else make()
    prompts = ["3", "a handwritten digit 7", ""] if make is transformer else ["bag", "an ankle boot", ""]
    config = Transformer(width=16, depth=2, heads=2, length=8, tokens=tokens) if make is transformer else Labels(width=16)
    encoder.save(tmp_path)
    loaded = config.load(tmp_path)
    loaded.load_state_dict(encoder.state_dict())
    a, b = encoder.encode(prompts), loaded.encode(prompts)
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.mask, b.mask) and torch.equal(a.pooled, b.pooled)
    for prompt in ("a zebra", "bag", "7"):
        try:
            told: Any = encoder.check(prompt)
        except PromptError as error:
            with pytest.raises(PromptError) as again:
                loaded.check(prompt)
            assert str(again.value) == str(error)
        else:
            assert loaded.check(prompt) == told


@pytest.mark.parametrize("make", [transformer, labels])
@pytest.mark.parametrize("prompt", ["", " ", "\t\n"])
def test_an_empty_prompt_is_refused_with_what_to_do(make: Any, prompt: str) -> None:
    with pytest.raises(PromptError, match="--guidance 0"):
        make().check(prompt)


@pytest.mark.parametrize("make", [transformer, labels])
def test_case_and_white_space_do_not_matter(make: Any) -> None:
    plain, odd = ("the digit three", "  The DIGIT\n three ") if make is transformer else ("ankle boot", "  Ankle\tBOOT ")
    found = make().encode([plain, odd])
    assert torch.equal(found.pooled[0], found.pooled[1])
    assert make().check(odd) == []


# ---------------------------------------------------------------------------------------------------- transformer


def test_a_caption_means_the_same_alone_and_beside_longer_ones() -> None:
    encoder = transformer()
    alone = encoder.encode(["3"])
    beside = encoder.encode(["the number seven, handwritten", "3"])
    assert not beside.mask[1, 2:].any()
    assert (beside.pooled[1] - alone.pooled[0]).abs().max() < 1e-6
    assert (beside.tokens[1, :2] - alone.tokens[0]).abs().max() < 1e-6


def test_every_word_and_its_place_matter() -> None:
    encoder = transformer()
    found = encoder.encode(["digit three", "three digit", "digit seven", "digit"]).pooled
    for i in range(4):
        for j in range(i):
            assert (found[i] - found[j]).abs().max() > 1e-3


def test_gradients_reach_every_weight() -> None:
    encoder = transformer()
    found = encoder.encode(CAPTIONS)
    (found.pooled.square().sum() + (found.tokens * torch.randn_like(found.tokens) * found.mask[:, :, None]).sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_equal_captions_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, sizes = transformer(), []
    real = encoder._forward
    monkeypatch.setattr(encoder, "_forward", lambda ids, mask: (sizes.append(len(ids)), real(ids, mask))[1])
    encoder.encode(["3", "", "3", "3", ""])
    assert sizes == [2]


def test_the_tokenizer_is_the_same_whatever_the_order_of_the_captions() -> None:
    for tokens in ("words", "pieces"):
        config = Transformer(width=16, depth=0, heads=2, tokens=tokens)
        a, b = config.build(CAPTIONS, {}), config.build(CAPTIONS[::-1], {})
        assert a.tokenizer.to_str() == b.tokenizer.to_str()


def test_an_unknown_word_is_an_error_that_names_it_and_the_nearest() -> None:
    with pytest.raises(PromptError, match=r"'handwriten' was never seen in training\. Did you mean 'handwritten'"):
        transformer().check("a handwriten digit 7")


def test_an_unknown_word_made_of_known_letters_is_a_warning_with_pieces() -> None:
    warnings = transformer(tokens="pieces").check("a handwriter digit")
    assert len(warnings) == 1 and "'handwriter'" in warnings[0] and "never seen" in warnings[0]


def test_a_letter_that_pieces_do_not_know_is_an_error() -> None:
    with pytest.raises(PromptError, match="'żółw'"):
        transformer(tokens="pieces").check("a żółw")


@pytest.mark.parametrize("tokens", ["words", "pieces"])
@pytest.mark.parametrize("prompt", ["a digit 🦄 7", "a digit ∑ 7", "digit 7 №"])
def test_a_sign_never_seen_is_never_passed_over_in_silence(tokens: str, prompt: str) -> None:
    encoder = transformer(tokens=tokens)
    sign = next(c for c in prompt if ord(c) > 127)
    try:
        warnings = encoder.check(prompt)
    except PromptError as error:
        warnings = [str(error)]
    unknown = encoder.tokenizer.token_to_id("<unknown>")
    if unknown in encoder.token_ids(prompt):
        assert any(sign in warning for warning in warnings)


@pytest.mark.parametrize("prompt", ["a handwritten digit 7.", "the number seven; handwritten!", "(digit) 'three'"])
def test_punctuation_is_neither_read_nor_complained_about(prompt: str) -> None:
    encoder = transformer()
    assert encoder.check(prompt) == []
    assert encoder.tokenizer.token_to_id("<unknown>") not in encoder.token_ids(prompt)


def test_every_training_caption_passes_its_own_check_without_unknown_tokens() -> None:
    for tokens in ("words", "pieces"):
        encoder = transformer(tokens=tokens, length=64)
        for caption in CAPTIONS:
            assert encoder.check(caption) == []
            assert encoder.tokenizer.token_to_id("<unknown>") not in encoder.token_ids(caption)


def test_a_prompt_that_is_too_long_is_warned_about_and_cut() -> None:
    encoder = transformer(length=4)
    prompt = "the digit three drawn by hand"
    assert any("7 tokens" in warning and "reads 4" in warning for warning in encoder.check(prompt))
    assert encoder.encode([prompt]).tokens.shape[1] == 4


def test_a_million_letters_are_one_unknown_word_in_a_short_message() -> None:
    with pytest.raises(PromptError) as error:
        transformer().check("x" * 100_000)
    assert len(str(error.value)) < 2000


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="16 is not a multiple of heads 3"):
        Transformer(width=16, heads=3).build(CAPTIONS, {})


# ---------------------------------------------------------------------------------------------------- labels


def test_names_captions_and_indices_of_a_class_are_the_same() -> None:
    found = labels().encode(["a shirt", "shirt", "SHIRT", "0", "bag"]).pooled
    assert all(torch.equal(found[0], found[i]) for i in range(1, 4)) and not torch.equal(found[0], found[4])


def test_the_null_class_has_a_vector_of_its_own() -> None:
    found = labels().encode(["", "0", "1", "2"]).pooled
    assert len({tuple(row) for row in found.tolist()}) == 4


@pytest.mark.parametrize("prompt", ["shrit", "3", "-1", "a photo of a shirt", "9" * 5000, "²"])
def test_what_is_no_class_is_refused_with_what_is(prompt: str) -> None:
    with pytest.raises(PromptError, match="index from 0 to 2") as error:
        labels().check(prompt)
    if prompt == "shrit":
        assert "'shirt'" in str(error.value)


def test_labels_without_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="kind: transformer"):
        Labels().build(CAPTIONS, {})


@pytest.mark.parametrize("content", ["", "[]", "3", '{"a": "x"}', '{"a": null}', "{}", '{"a": -5}', "[" * 100_000])
def test_damaged_class_names_are_refused_in_words(content: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"labels\.json"):
        Labels().load(tmp_path)
