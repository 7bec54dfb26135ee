import numpy as np
import pytest

from limner.errors import EvaluationError
from limner.evaluation.adherence import adherence, clip_score, verified
from limner.evaluation.memorisation import memorisation


def test_accuracy_confusion_and_probability_are_counted_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    found = adherence(probabilities, np.array([0, 1, 1, -1]), ["a", "b"], prompts=["p", "q", "q", "other"])
    assert found["accuracy"]["value"] == pytest.approx(2 / 3) and found["accuracy"]["num"] == 3
    assert found["confusion"] == [[1, 0], [1, 1]]
    assert found["mean_probability"]["value"] == pytest.approx((0.9 + 0.4 + 0.8) / 3)
    assert [entry["accuracy"] for entry in found["per_class"]] == [1.0, 0.5]
    assert found["per_prompt"] == {"p": {"accuracy": 1.0, "num": 1}, "q": {"accuracy": 0.5, "num": 2}}


def test_a_class_that_was_never_asked_for_has_no_accuracy():
    assert adherence(np.eye(3)[:2], np.array([0, 1]), "abc")["per_class"][2] == {
        "name": "c",
        "num": 0,
        "accuracy": None,
    }


@pytest.mark.parametrize(
    ("shape", "asked", "match"),
    [
        ((2, 2), [0, 2], "class 2"),
        ((2, 2), [-1, -1], "no prompt"),
        ((2, 3), [0, 1], "2 prompts"),
        ((3, 2), [0, 1], "2 prompts"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(shape, asked, match):
    with pytest.raises(EvaluationError, match=match):
        adherence(np.full(shape, 0.5), np.array(asked), ["a", "b"])


def test_an_exact_verifier_counts_only_what_was_asked_for():
    def verify(image, prompt):
        return {"count": bool(image.any())} | ({"colour": False} if "red" in prompt else {})

    images = np.stack([np.ones((3, 2, 2), np.uint8), np.zeros((3, 2, 2), np.uint8)])
    found = verified(verify, images, ["a red ring", "a ring"])
    assert found["count"]["value"] == 0.5 and found["count"]["num"] == 2
    assert found["colour"]["value"] == 0.0 and found["colour"]["num"] == 1
    with pytest.raises(EvaluationError, match="each image needs its own"):
        verified(verify, images, ["a ring"])


def test_a_clip_score_stands_beside_that_of_shuffled_captions():
    class Stub:
        name, sha256 = "stub", "0"

        def scores(self, images, prompts):
            return np.array([30.0 if image.max() == len(prompt) else 10.0 for image, prompt in zip(images, prompts, strict=True)])

    images = np.array([1, 2, 3, 4], np.uint8).reshape(4, 1, 1, 1)
    found = clip_score(Stub(), images, ["a", "bb", "ccc", "dddd"])
    assert found["value"] == 30.0 and found["shuffled"] == 10.0


def cloud(num, seed):
    return np.random.default_rng(seed).standard_normal((num, 6))


def test_fresh_samples_are_as_near_to_training_as_to_held_out_data():
    found = memorisation(cloud(800, 0), cloud(3000, 1), cloud(700, 2), cloud(500, 3))
    assert found["count"] == 700
    assert found["probability"]["interval"][0] <= 0.5 <= found["probability"]["interval"][1]
    assert abs(found["real"]["value"] - 0.5) < 0.04
    assert found["copies"]["value"] < 0.03


def test_copies_are_found_with_their_originals():
    train = cloud(1000, 1)
    made = cloud(500, 0)
    made[7] = train[123]
    made[100:200] = train[300:400] + 1e-3
    found = memorisation(made, train, cloud(1000, 2), cloud(500, 3))
    assert found["closest"][0] == {"image": 7, "train": 123, "distance": pytest.approx(0, abs=1e-6)}
    assert found["copies"]["value"] == pytest.approx(101 / 500, abs=0.03)
    assert found["probability"]["interval"][0] > 0.53


def test_sets_that_do_not_fit_are_refused():
    for bad in (np.zeros((0, 6)), np.zeros((5, 4)), np.full((5, 6), np.nan)):
        with pytest.raises(EvaluationError, match="`heldout`"):
            memorisation(cloud(9, 0), cloud(9, 1), bad, cloud(9, 2))
