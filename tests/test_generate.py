"""From prompts and seeds to files: a seed belongs to an image, and every file says how it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from limner.errors import ConfigError, PromptError
from limner.generate import (
    changed,
    check_request,
    generate,
    grid_image,
    initial_noise,
    pictures,
    read_facts,
    to_pil,
    trajectory,
    write_images,
)
from limner.sampling import Sampling

PROMPTS = [f"a handwritten digit {n}" for n in range(8)]
SEEDS = [3, 1, 4, 1, 5, 9, 2, 6]
STOCHASTIC = [{"sampler": "ddpm"}, {"sampler": "ddim", "eta": 1.0}, {"sampler": "dpmpp-2m-sde"}, {"sampler": "edm-churn"}]


def latents(model: Any, sampling: Sampling, batch: int) -> torch.Tensor:
    """Return the samples [8 C H W] as latents, computed `batch` at once."""
    parts = []
    for start in range(0, 8, batch):
        rows = slice(start, start + batch)
        *_, last = trajectory(model, PROMPTS[rows], SEEDS[rows], sampling)
        parts.append(last.x)
    return torch.cat(parts)


# ---------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_initial_noise_belongs_to_the_seed_bit_by_bit(batch: int) -> None:
    whole, again = initial_noise(SEEDS, (1, 28, 28))
    later = again()
    for start in range(0, 8, batch):
        rows = slice(start, start + batch)
        part, more = initial_noise(SEEDS[rows], (1, 28, 28))
        assert torch.equal(part, whole[rows]) and torch.equal(more(), later[rows])
    assert torch.equal(whole[1], whole[3]) and not torch.equal(whole[0], whole[1]) and not torch.equal(whole, later)


@pytest.mark.parametrize(
    "changes", [{"sampler": "ab2"}, {"sampler": "heun"}, {"guidance": 1.0}, {"guidance": 0.0}, *STOCHASTIC], ids=str
)
def test_an_image_is_the_same_in_any_batch(changes: dict[str, Any], model: Any) -> None:
    sampling = changed(model.config.sample, {"steps": 3} | changes)
    whole = latents(model, sampling, 8)
    for batch in (1, 3):
        assert (latents(model, sampling, batch) - whole).abs().max() < 1e-4
    as_bytes = [np.concatenate(list(generate(model, PROMPTS, SEEDS, sampling, batch_size=b))).astype(int) for b in (1, 3, 8)]
    assert max(np.abs(part - as_bytes[0]).max() for part in as_bytes) <= 1


@pytest.mark.parametrize("changes", STOCHASTIC, ids=str)
def test_a_stochastic_sampler_repeats_itself_and_differs_between_seeds(changes: dict[str, Any], model: Any) -> None:
    sampling = changed(model.config.sample, {"steps": 3} | changes)
    a, b = latents(model, sampling, 8), latents(model, sampling, 8)
    assert torch.equal(a, b) and (a[0] - a[1]).abs().max() > 0.01


def test_pictures_come_prompt_by_prompt_with_rising_seeds(model: Any) -> None:
    found = list(pictures(model, ["7", "3"], num=3, seed=10, sampling=changed(model.config.sample, {"steps": 1}), batch_size=4))
    assert [(p.index, p.prompt, p.seed) for p in found] == [(i, "7" if i < 3 else "3", 10 + i) for i in range(6)]


# ---------------------------------------------------------------------------------------------------- guidance and prompts


def test_guidance_zero_does_not_read_the_prompt_and_one_does_not_read_the_null(model: Any) -> None:
    sampling = changed(model.config.sample, {"steps": 2, "guidance": 0.0, "interval": (0.0, 1.0)})
    a, b = ([*trajectory(model, [prompt], [0], sampling)][-1].x for prompt in ("7", "3"))
    assert (a - b).abs().max() < 1e-5
    sampling = changed(model.config.sample, {"steps": 2, "guidance": 1.0})
    a, b = ([*trajectory(model, ["7"], [0], sampling, negative=negative)][-1].x for negative in (None, "3"))
    assert (a - b).abs().max() < 1e-5


def test_the_prompt_and_the_negative_prompt_both_matter_under_guidance(model: Any) -> None:
    sampling = changed(model.config.sample, {"steps": 2, "guidance": 4.0, "interval": (0.0, 1.0)})
    samples = [[*trajectory(model, [p], [0], sampling, negative=n)][-1].x for p, n in (("7", None), ("3", None), ("7", "3"))]
    assert all((samples[i] - samples[j]).abs().max() > 1e-3 for i, j in ((0, 1), (0, 2)))


@pytest.mark.parametrize(
    ("prompts", "changes", "error", "named"),
    [
        ([], {}, PromptError, "no prompt"),
        ([""], {}, PromptError, "no words"),
        (["7", "  "], {}, PromptError, "no words"),
        (["a handwriten digit"], {}, PromptError, "'handwriten'.*'handwritten'"),
        (["7"], {"num": 0}, ConfigError, "between 1 and"),
        (["7"], {"num": 10**9}, ConfigError, "between 1 and"),
        (["7"], {"seed": -1}, ConfigError, "seed -1"),
        (["7"], {"seed": 2**63}, ConfigError, "seed"),
        (["7"], {"batch_size": 0}, ConfigError, "batch size 0"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(
    prompts: list[str], changes: dict[str, Any], error: Any, named: str, model: Any
) -> None:
    with pytest.raises(error, match=named):
        check_request(model, prompts, **({"num": 1, "seed": 0, "batch_size": 1} | changes))


def test_the_largest_seed_works(model: Any) -> None:
    found = list(pictures(model, ["7"], seed=2**63 - 2, sampling=changed(model.config.sample, {"steps": 1})))
    assert found[0].seed == 2**63 - 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"sampler": "ab22"}, "Did you mean 'ab2'"),
        ({"grid": "unifrom"}, "Did you mean 'uniform'"),
        ({"interval": (0.9, 0.1)}, "interval"),
        ({"eta": 0.5}, "eta"),
        ({"guidence": 1}, "Did you mean 'guidance'"),
    ],
)
def test_a_change_of_the_sampling_that_means_nothing_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        changed(Sampling(), changes)


# ---------------------------------------------------------------------------------------------------- pixels


def test_the_pixel_range_is_whole_from_a_stored_image_to_a_file(model: Any, make_recipe: Any, cache: Path, tmp_path: Path) -> None:
    """Black stays 0 and white 255 through store, codec, a sampler over a denoiser that knows the answer, and PNG."""
    images = np.array(make_recipe().data.open(cache).images[:8])
    assert images.min() == 0 and images.max() == 255
    x0 = model.codec.encode(torch.from_numpy(images))

    class Knowing:
        config, process, codec, device, latent_shape = model.config, model.process, model.codec, model.device, model.latent_shape
        encode, weak = staticmethod(model.encode), None

        @staticmethod
        def denoise(x_t: torch.Tensor, t: torch.Tensor, conditioning: Any) -> torch.Tensor:
            return x0.repeat(len(x_t) // len(x0), 1, 1, 1)  # guidance asks for both halves at once

    found = np.concatenate(list(generate(Knowing(), PROMPTS, SEEDS, changed(model.config.sample, {"steps": 4}))))  # type: ignore[arg-type]
    assert np.abs(found.astype(int) - images).max() <= 1
    to_pil(found[0]).save(tmp_path / "a.png")
    assert (np.asarray(Image.open(tmp_path / "a.png")) == found[0, 0]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_each_image_where_it_belongs(channels: int) -> None:
    images = [np.full((channels, 4, 4), 10 * i, dtype=np.uint8) for i in range(5)]
    sheet = np.asarray(grid_image(images, columns=3, scale=2, gap=1))
    assert sheet.shape[:2] == (22, 32)
    centres = [sheet[2 * (1 + (i // 3) * 5) + 3, 2 * (1 + (i % 3) * 5) + 3].max() for i in range(5)]
    assert centres == [0, 10, 20, 30, 40] and sheet[0, 0].max() == 255


# ---------------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def written(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "samples"
    sampling = changed(model.config.sample, {"steps": 2, "guidance": 3.0, "sampler": "ddim"})
    prompts = ["the number seven, handwritten", "3"]
    found = pictures(model, prompts, num=3, seed=40, sampling=sampling, negative="8", batch_size=2)
    for _ in write_images(model, found, out, sampling, columns=3, negative="8"):
        pass
    return out


def test_one_line_an_image_in_order_says_how_it_was_made(written: Path, model: Any) -> None:
    lines = [json.loads(line) for line in (written / "images.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [f"{i:05d}.png" for i in range(6)]
    assert [line["seed"] for line in lines] == list(range(40, 46))
    assert [line["prompt"] for line in lines] == ["the number seven, handwritten"] * 3 + ["3"] * 3
    for line in lines:
        assert (line["sampler"], line["steps"], line["guidance"], line["negative_prompt"]) == ("ddim", 2, 3.0, "8")
        assert line["model"] == model.sha256 and len(line["model"]) == 64
    assert {path.name for path in written.iterdir()} == {*(line["file"] for line in lines), "images.jsonl", "grid.png"}


def test_every_png_carries_the_same_facts_readable_back(written: Path, model: Any) -> None:
    for line in (written / "images.jsonl").read_text().splitlines():
        known = json.loads(line)
        assert read_facts(written / known["file"]) == known
        with Image.open(written / known["file"]) as image:
            text = image.text["parameters"].splitlines()  # type: ignore[attr-defined]
        assert text[0] == known["prompt"] and text[1] == "Negative prompt: 8"
        pairs = dict(part.split(": ") for part in text[2].split(", "))
        assert pairs == {
            "Steps": "2", "Sampler": "ddim", "CFG scale": "3", "Seed": str(known["seed"]), "Size": "28x28", "Model hash": model.sha256[:10],
        }  # fmt: skip


def test_an_image_can_be_made_again_from_its_facts(written: Path, model: Any) -> None:
    known = read_facts(written / "00004.png")
    assert known
    again = model.generate(
        known["prompt"],
        seed=known["seed"],
        steps=known["steps"],
        guidance=known["guidance"],
        sampler=known["sampler"],
        negative="8",
    )[0]
    assert np.abs(np.asarray(again, int) - np.asarray(Image.open(written / "00004.png"), int)).max() <= 1


def test_words_of_every_language_survive_in_the_chunks(model: Any, tmp_path: Path) -> None:
    from limner.generate import Picture, facts, png_chunks

    picture = Picture(0, "naïve 数字 🦄\nline, two: \x7f", 5, np.zeros((1, 4, 4), np.uint8))
    known = facts(model, model.config.sample, picture)
    picture.image().save(tmp_path / "a.png", pnginfo=png_chunks(known))
    assert read_facts(tmp_path / "a.png") == known


def test_pictures_without_facts_read_as_none(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (4, 4)).save(tmp_path / "a.jpg")
    assert read_facts(tmp_path / "a.png") is None and read_facts(tmp_path / "a.jpg") is None


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_computed(model: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    asked = []

    def never() -> Any:
        asked.append(1)
        yield

    with pytest.raises(ConfigError, match="--out"):
        list(write_images(model, never(), tmp_path / "file" / "out", Sampling(), columns=1))
    assert not asked
