"""Each mistake that people make is caught by the measure meant for it, and the others stay quiet where they should."""

import dataclasses

import numpy as np
import pytest
from glyphs import glyphs

from limner.errors import EvaluationError
from limner.evaluation.evaluate import Real, evaluate, spread
from limner.evaluation.judge import Seen


def score(images, labels, judge, real, **more):
    return evaluate(
        images,
        real,
        labels=labels,
        prompts=[f"class {label}" for label in labels],
        judge=judge,
        intervals=False,
        **more,
    )


@pytest.fixture(scope="module")
def good():
    return glyphs(600, 9)


@pytest.fixture(scope="module")
def faithful(good, judge, real):
    return score(*good, judge, real)


def ratio(result, network="judge-conv"):
    entry = result["distances"][network]["frechet"]
    return entry["value"] / entry["floor"]


def test_pictures_from_the_same_source_as_the_references_score_like_real_ones(faithful):
    assert faithful["adherence"]["accuracy"]["value"] > 0.97
    assert abs(faithful["adherence"]["accuracy"]["value"] - faithful["adherence"]["real"]["value"]) < 0.02
    assert ratio(faithful) < 3 and ratio(faithful, "random-conv") < 3
    assert faithful["distances"]["judge-conv"]["frechet"]["ceiling"] > 50 * faithful["distances"]["judge-conv"]["frechet"]["value"]
    assert abs(faithful["memorisation"]["probability"]["value"] - 0.5) < 0.05
    assert faithful["memorisation"]["copies"]["value"] < 0.04
    assert faithful["warnings"] == []


def test_a_shifted_value_range_is_told_and_seen_in_the_random_features(good, judge, real, faithful):
    images, labels = good
    shifted = (127.5 + images / 2.0).astype(np.uint8)  # [0, 255] taken for [-1, 1] of another range
    found = score(shifted, labels, judge, real)
    assert any("value range" in warning for warning in found["warnings"])
    assert ratio(found, "random-conv") > 20 * ratio(faithful, "random-conv")


def test_a_dropped_ema_is_seen_in_the_random_features_where_adherence_sees_nothing(good, judge, real, faithful):
    images, labels = good
    grain = np.random.default_rng(0).normal(0, 18, images.shape)  # what weights that are not averaged leave behind
    found = score(np.clip(images + grain, 0, 255).astype(np.uint8), labels, judge, real)
    assert ratio(found, "random-conv") > 5 * ratio(faithful, "random-conv")
    assert found["adherence"]["accuracy"]["value"] > 0.9


def test_shuffled_captions_are_seen_by_adherence_and_by_no_distance(good, judge, real, faithful):
    images, labels = good
    found = score(images, np.random.default_rng(0).permutation(labels), judge, real)
    assert found["adherence"]["accuracy"]["interval"][1] < 0.35  # four classes: chance is 0.25
    assert found["distances"] == faithful["distances"]


def test_a_copied_training_set_is_seen_by_memorisation_and_by_nothing_else(judge, real):
    copies = real.train[:600]
    labels = judge.probabilities(copies).argmax(1)
    found = score(copies, labels, judge, real)
    assert found["memorisation"]["copies"]["value"] > 0.99
    assert found["memorisation"]["probability"]["interval"][0] > found["memorisation"]["real"]["interval"][1] + 0.1
    assert found["memorisation"]["closest"][0]["distance"] == 0
    assert ratio(found) < 3


def test_nearly_copied_pictures_are_seen_too(judge, real):
    near = np.clip(real.train[:600] + np.random.default_rng(0).normal(0, 3, real.train[:600].shape), 0, 255).astype(np.uint8)
    assert score(near, np.full(600, -1), judge, real)["memorisation"]["copies"]["value"] > 0.9


def test_one_class_only_is_seen_by_recall_and_coverage_where_precision_sees_nothing(judge, real, faithful):
    found = score(*glyphs(600, 9, labels=np.full(600, 3)), judge, real)
    measures, before = found["distances"]["judge-conv"], faithful["distances"]["judge-conv"]
    assert measures["recall"]["value"] < 0.5 * before["recall"]["value"]
    assert measures["coverage"]["value"] < 0.5 * before["coverage"]["value"]
    assert measures["precision"]["value"] > 0.7
    assert found["adherence"]["accuracy"]["value"] > 0.97
    assert ratio(found) > 20 * ratio(faithful)


def test_a_judge_that_has_seen_the_generators_images_says_so(good, judge, real):
    known = dataclasses.replace(judge, seen=Seen("glyphs", ("train", "judge"), 1))
    assert any("trained on images that the generator was" in warning for warning in score(*good, known, real)["warnings"])


def test_everything_that_has_to_be_known_is_in_the_result(faithful, judge):
    facts = faithful["provenance"]
    assert facts["judge"]["sha256"] == judge.sha256 and facts["judge"]["accuracy"] > 0.97
    assert {entry["name"] for entry in facts["features"]} == {"judge-conv", "random-conv"}
    assert facts["references"]["count"] == 600 and len(facts["images_sha256"]) == 64
    assert faithful["counts"] == {"images": 600, "references": 600, "compared": 600}


def test_unequal_counts_are_compared_only_when_a_count_is_given(good, judge, real):
    images, labels = good
    with pytest.raises(EvaluationError, match="550 pictures against 600 references"):
        score(images[:550], labels[:550], judge, real)
    found = score(images, labels, judge, real, compared=500)
    assert found["counts"]["compared"] == 500
    assert any("500 pictures with 500 references" in warning for warning in found["warnings"])
    assert found["adherence"]["accuracy"]["num"] == 600


def test_low_counts_are_warned_about(good, judge, real):
    images, labels = good
    found = score(images[:50], labels[:50], judge, real, compared=50)
    assert any("few" in warning for warning in found["warnings"])


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.full((600, 1, 16, 16), np.nan, np.float32), "600 images are not finite"),
        (np.zeros((600, 1, 16, 16), np.float32), "uint8"),
        (np.zeros((0, 1, 16, 16), np.uint8), "no images"),
        (np.zeros((1, 1, 16, 16), np.uint8), "1 pictures against 600"),
        (np.zeros((600, 3, 16, 16), np.uint8), "cannot be compared"),
        (np.zeros((600, 1, 8, 8), np.uint8), "cannot be compared"),
    ],
)
def test_what_cannot_be_scored_is_refused(images, match, real):
    with pytest.raises(EvaluationError, match=match):
        evaluate(images, real)


def test_without_a_spare_set_the_floor_comes_from_references_that_are_not_compared(good):
    images, _ = good
    references, _ = glyphs(600, 3)
    found = evaluate(images, Real(references), compared=300, intervals=False)
    assert "floor" in found["distances"]["random-conv"]["frechet"]
    assert "floor" not in evaluate(images, Real(references), intervals=False)["distances"]["random-conv"]["frechet"]
    assert found["memorisation"] is None


def test_evenly_spread_rows_are_distinct_and_keep_the_shares_of_sorted_classes():
    classes = np.repeat(np.arange(10), 75)
    rows = spread(500, 750)
    assert len(set(rows)) == 500
    counts = np.bincount(classes[rows])
    assert counts.min() == counts.max() == 50
