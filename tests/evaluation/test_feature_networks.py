import hashlib
import json

import numpy as np
import pytest
from glyphs import glyphs

from limner.errors import EvaluationError, MissingError
from limner.evaluation import features as f


def test_random_features_are_the_same_for_ever():
    network = f.RandomFeatures(1)
    found = network.features(glyphs(30, 0)[0])
    assert found.shape == (30, 64) and found.dtype == np.float64 and np.isfinite(found).all()
    assert network.sha256 == f.RandomFeatures(1).sha256 != f.RandomFeatures(1, seed=1).sha256
    assert network.sha256.startswith("903fae65846b231f")


def test_random_features_read_colour_and_small_pictures():
    assert f.RandomFeatures(3).features(np.zeros((2, 3, 5, 7), np.uint8)).shape == (2, 64)


class Counting:
    name, sha256 = "counting", "1"

    def __init__(self):
        self.read = 0

    def features(self, images):
        self.read += len(images)
        return images.reshape(len(images), -1)[:, :3].astype(np.float64)


def test_no_set_is_read_twice(tmp_path):
    images, _ = glyphs(20, 0)
    network, cache = Counting(), f.FeatureCache(tmp_path)
    first = cache.features(network, images)
    again = f.FeatureCache(tmp_path).features(network, images.copy())
    assert network.read == 20 and np.array_equal(first.values, again.values)
    cache.features(network, images[::-1])
    assert network.read == 40
    network.sha256 = "2"
    cache.features(network, images)
    assert network.read == 60


def test_a_damaged_cache_is_made_again(tmp_path):
    images, _ = glyphs(20, 0)
    network, cache = Counting(), f.FeatureCache(tmp_path)
    cache.features(network, images)
    path = next(tmp_path.glob("*.npy"))
    for content in (b"", b"nonsense", path.read_bytes()[:-9]):
        path.write_bytes(content)
        assert np.array_equal(cache.features(network, images).values, network.features(images))


def test_missing_inception_weights_say_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.delenv(f.INCEPTION_ENV, raising=False)
    with pytest.raises(MissingError, match=r"https://github.com/.*\n.*LIMNER_INCEPTION="):
        f.Inception(tmp_path / "none.pth")


def test_another_file_is_not_opened_as_inception(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(EvaluationError, match="6726825d"):
        f.Inception(tmp_path / "weights.pth")


def test_a_missing_clip_says_what_a_folder_needs(tmp_path):
    with pytest.raises(MissingError, match=r"preprocessor_config\.json"):
        f.Clip(str(tmp_path))


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """A CLIP of a few thousand weights with a vocabulary of letters, saved as the real ones are."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(97, 123)]
    vocabulary = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}))
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    end = len(vocabulary) - 1
    config = CLIPConfig(
        text_config=small | {"vocab_size": len(vocabulary), "eos_token_id": end, "bos_token_id": end - 1, "pad_token_id": end},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


def test_clip_scores_are_100_times_the_cosine(tiny_clip):
    clip = f.Clip(str(tiny_clip))
    images = np.concatenate([glyphs(4, 0)[0]] * 3, axis=1)
    prompts = ["a post", "a ring", "a post", "beam"]
    image, text = clip.features(images), clip.text_features(prompts)
    assert image.shape == text.shape == (4, 16) and np.abs(np.linalg.norm(text, axis=1) - 1).max() < 1e-9
    assert np.array_equal(text[0], text[2]) and not np.array_equal(text[0], text[1])
    assert np.abs(clip.scores(images, prompts) - 100 * np.maximum(0, (image * text).sum(1))).max() < 1e-9
    assert len(clip.sha256) == 64 == len(hashlib.sha256().hexdigest())
