import json

import numpy as np
import pytest
import torch
from glyphs import NAMES, QUICK, Store, glyphs

from limner.errors import CheckpointError, ConfigError, EvaluationError, MissingError
from limner.evaluation import judges
from limner.evaluation.augment import digits, photos, warp
from limner.evaluation.judge import Judge, JudgeConfig, Seen, train_judge

SHORT = QUICK.model_copy(update={"steps": 8})


def test_the_judge_is_right_about_drawings_it_has_not_seen(judge):
    assert judge.accuracy > 0.97 and judge.tested_on == 400


def test_both_architectures_learn(judge):
    residual = train_judge(*glyphs(600, 1), QUICK.model_copy(update={"architecture": "residual"}), class_names=NAMES)
    assert residual.test(*glyphs(400, 2)) > 0.97
    assert residual.sha256 != judge.sha256


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, again = (train_judge(*glyphs(128, 0), SHORT) for _ in range(2))
    other = train_judge(*glyphs(128, 0), SHORT.model_copy(update={"seed": 1}))
    assert first.sha256 == again.sha256 != other.sha256


def test_training_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    train_judge(*glyphs(64, 0), SHORT)
    assert torch.equal(before, torch.get_rng_state())


def test_a_budget_in_seconds_ends_in_time():
    found = train_judge(*glyphs(128, 0), SHORT.model_copy(update={"steps": None, "seconds": 0.3}))
    assert found.seconds < 30 and found.steps >= 1


def test_features_and_probabilities_do_not_depend_on_the_batch(judge):
    images, _ = glyphs(50, 7)
    features, probabilities = judge.read(images)
    other, _ = judge.read(images, batch_size=7)
    assert features.shape == (50, 64) and probabilities.shape == (50, 4)
    assert np.abs(features - other).max() < 1e-4
    assert np.abs(probabilities.sum(1) - 1).max() < 1e-9


def test_a_saved_judge_comes_back_with_its_evidence(judge, tmp_path):
    judge.save(tmp_path / "judge")
    found = Judge.load(tmp_path / "judge")
    images, _ = glyphs(20, 7)
    assert found.sha256 == judge.sha256 and found.describe() == judge.describe()
    assert found.seen == Seen("glyphs", ("judge",), 600)
    assert np.abs(found.features(images) - judge.features(images)).max() == 0


def test_a_damaged_judge_is_refused(judge, tmp_path):
    folder = tmp_path / "judge"
    with pytest.raises(MissingError, match="no judge here"):
        Judge.load(folder)
    judge.save(folder)
    document = json.loads((folder / "judge.json").read_text())
    (folder / "judge.json").write_text(json.dumps(document | {"sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="damaged"):
        Judge.load(folder)
    (folder / "judge.json").write_text(json.dumps(document))
    weights = folder / "judge.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cannot be read"):
        Judge.load(folder)


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (np.zeros((4, 16, 16), np.uint8), [0, 1, 0, 1], "uint8"),
        (np.zeros((4, 1, 16, 16), np.float32), [0, 1, 0, 1], "uint8"),
        (np.zeros((4, 1, 16, 16), np.uint8), [0, 1, 0], "one label"),
        (np.zeros((4, 1, 16, 16), np.uint8), [1, 1, 1, 1], "two or more classes"),
        (np.zeros((4, 1, 16, 16), np.uint8), [0, -1, 0, 1], "0 or more"),
        (np.zeros((4, 1, 16, 16), np.uint8), [0, 9, 0, 1], "4 class names"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(images, labels, match):
    with pytest.raises(EvaluationError, match=match):
        train_judge(images, np.array(labels), SHORT, class_names=NAMES)


def test_images_of_another_shape_are_refused(judge):
    with pytest.raises(EvaluationError, match=r"reads images of \[1, 16, 16\]"):
        judge.features(np.zeros((2, 1, 8, 8), np.uint8))


def test_one_budget_has_to_be_given():
    with pytest.raises(ConfigError, match="one budget"):
        JudgeConfig(steps=5, seconds=3)


def test_writing_is_never_flipped_and_photographs_are_half_the_time():
    image = torch.zeros(200, 1, 16, 16) - 1
    image[:, :, 3:13, 3:6] = 1  # an L, which is no J
    image[:, :, 10:13, 3:12] = 1
    generator = torch.Generator().manual_seed(0)

    def mirrored(changed):
        flat, same, other = changed.flatten(1), image.flatten(1), image.flip(3).flatten(1)
        return ((flat - other).square().sum(1) < (flat - same).square().sum(1)).float().mean().item()

    assert mirrored(digits(image, generator)) < 0.15
    assert 0.35 < mirrored(photos(image, generator)) < 0.65


def test_no_change_asked_for_is_no_change():
    image = torch.rand(3, 2, 16, 12)
    same = warp(image, torch.Generator().manual_seed(0), turn=0, scale=0, shear=0, shift=0, bend=0)
    assert (same - image).abs().max() < 1e-5


def test_a_stores_judge_learns_from_the_judge_split_alone_and_is_kept(tmp_path, monkeypatch):
    store = Store()
    first = judges.judge_for(store, tmp_path, SHORT)
    assert first.seen == Seen(store.fingerprint, ("judge",), 120) and first.tested_on == 120
    assert first.seen.warning(store.fingerprint) == ""
    monkeypatch.setattr(judges, "train_judge", lambda *a, **k: pytest.fail("trained again"))
    assert judges.judge_for(store, tmp_path, SHORT).sha256 == first.sha256
    folder = next((tmp_path / "judges").iterdir())
    (folder / "judge.safetensors").write_bytes(b"broken")
    monkeypatch.undo()
    assert judges.judge_for(store, tmp_path, SHORT).sha256 == first.sha256


def test_a_judge_of_the_generators_images_warns_for_that_store_only():
    seen = Seen("here", ("train", "judge"), 10)
    assert "flatter copies" in seen.warning("here") and seen.warning("there") == ""


def test_data_without_classes_have_no_judge_and_too_few_are_refused(tmp_path):
    store = Store()
    store.labels = np.full(400, -1)
    assert judges.judge_for(store, tmp_path) is None
    with pytest.raises(EvaluationError, match="too few"):
        judges.judge_for(Store(num=40), tmp_path)
    with pytest.raises(EvaluationError, match="Did you mean 'judge-digits'"):
        judges.train_named("judge-digit", tmp_path / "out", tmp_path)


def test_the_names_that_the_command_line_shows_are_those_that_can_be_trained():
    from limner.evaluation.names import JUDGE_NAMES

    assert set(JUDGE_NAMES) == set(judges.JUDGES)


@pytest.mark.slow
def test_the_judge_of_750_digits_is_right_about_98_percent_of_the_test_digits(tmp_path):
    from limner.data import SOURCES

    store = SOURCES.parse("digits").open(tmp_path)
    found = judges.judge_for(store, tmp_path)
    assert found.seen.num == 750 and found.tested_on == 750
    assert found.accuracy >= 0.98


@pytest.mark.slow
def test_judge_digits_is_right_about_98_5_percent(tmp_path):
    assert judges.train_named("judge-digits", tmp_path / "out", tmp_path).accuracy >= 0.985
