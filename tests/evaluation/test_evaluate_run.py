"""A run of drawings, trained for a few steps, is judged, compared, swept and shown; folders of pictures are judged."""

import json
import re

import numpy as np
import pytest
from glyphs import NAMES, QUICK, Store, glyphs
from PIL import Image

from limner.errors import ConfigError, EvaluationError
from limner.evaluation import compare as c
from limner.evaluation import judges, pictures
from limner.evaluation import run as r
from limner.evaluation import sweep as s

RECIPE = """
name: drawings
data: {kind: folder, path: PATH, size: 16, channels: 1, judge: 0.3, test: 0.3}
text: {kind: transformer, width: 16, depth: 1, heads: 2, length: 8}
network: {kind: unet, patch: 2, widths: [8, 8], blocks: 1, middle: 1, head_width: 8}
train: {images: 128, batch: 32, warmup: 2, previews: 2, snapshots: 2, heldout: 32, trackers: [], precision: fp32}
sample: {steps: 3, guidance: 2.0}
"""


def put(folder, images, labels=None):
    for index, image in enumerate(images):
        place = folder / (NAMES[labels[index]] if labels is not None else "")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(place / f"{index:04d}.png")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run folder with its cache, and the judge that the cache holds."""
    from limner.recipe import find
    from limner.training.loop import train

    base = tmp_path_factory.mktemp("run")
    put(base / "pictures", *glyphs(240, 0))
    (base / "drawings.yaml").write_text(RECIPE.replace("PATH", str(base / "pictures")))
    for _ in train(find(str(base / "drawings.yaml")), base / "drawings", cache=base / "cache"):
        pass
    return base


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(judges, "default_config", lambda store: QUICK)


def test_a_run_is_judged_and_everything_is_written(trained, quick):
    told = []
    found = r.evaluate_run(
        trained / "drawings", num=60, seeds=2, cache=trained / "cache", precision="fp32", name="first",
        command="limner eval x", progress=lambda what, share: told.append(what),
    )  # fmt: skip
    assert json.loads((trained / "drawings/evals/first.json").read_text()) == found
    assert found["counts"] == {"images": 60, "references": 72, "compared": 60}
    assert len(found["spread"]["accuracy"]["values"]) == 2 and found["spread"]["accuracy"]["deviation"] is not None
    facts = found["provenance"]
    assert len(facts["model"]["sha256"]) == 64 and facts["model"]["ema"] == 0.1 and facts["model"]["precision"] == "fp32"
    assert facts["sampling"]["steps"] == 3 and facts["seeds"] == {"first": 0, "num": 60}
    assert facts["network_evaluations"] == pytest.approx(5)  # three steps, guided at two: both halves counted
    assert facts["judge"]["seen"]["splits"] == ["judge"] and "torch" in facts["machine"]["versions"]
    assert len(found["heldout"]["bins"]) == 10
    assert found["distances"]["judge-conv"]["frechet"]["floor"] < found["distances"]["judge-conv"]["frechet"]["value"]
    assert "interval" in found["distances"]["judge-conv"]["recall"]
    assert {"sampling", "scoring"} <= set(told)
    check_page((trained / "drawings/report.html").read_text())


def check_page(text):
    assert "<script" not in text and not re.search(r"(src|href)=\"(?!data:)", text) and "url(" not in text
    for heading in (
        "Samples",
        "Does it show",
        "Worst and best",
        "How near",
        "Are they copies",
        "Training",
        "Provenance",
        "Do it again",
    ):
        assert f"<h2>{heading}" in text, heading
    assert "image/gif" in text and "limner train drawings" in text and "limner eval x" in text
    assert text.count("<table") == text.count("</table>") and text.count("<div") == text.count("</div>")


def test_the_page_escapes_what_it_is_given(tmp_path):
    from limner.evaluation.evaluate import Real, evaluate
    from limner.evaluation.report import write_report
    from limner.evaluation.sections import Pictures

    images, _ = glyphs(520, 0)
    found = evaluate(images, Real(glyphs(520, 1)[0]), intervals=False, provenance={"command": "<script>alert(1)</script>"})
    found["warnings"] = ["<b>bold</b>"]
    text = write_report(tmp_path / "<i>", found, Pictures(images), path=tmp_path / "page.html").read_text()
    assert "<script" not in text and "<b>bold" not in text and "<i>" not in text


def test_prompts_ask_for_all_classes_evenly_in_all_wordings():
    prompts, labels = r.prompts_for(Store(), 24)
    assert np.bincount(labels).tolist() == [6, 6, 6, 6]
    assert sorted(set(prompts)) == sorted(w for label in range(4) for w in Store().class_captions(label))
    assert prompts[:5] == ["a post", "a beam", "a cross", "a ring", "post"]


def test_a_sweep_finds_the_best_point_and_draws_it(trained, quick):
    grid = s.parse_grid(["guidance=1,3", "ema=0.05,0.2"])
    found = s.sweep(trained / "drawings", grid, num=24, cache=trained / "cache", precision="fp32")
    assert [(p["guidance"], p["ema"]) for p in found["points"]] == [(1, 0.05), (1, 0.2), (3, 0.05), (3, 0.2)]
    assert found["points"][0]["frechet"] != found["points"][1]["frechet"]  # the width changes the weights
    assert found["points"][0]["network_evaluations"] == 3 < found["points"][2]["network_evaluations"]
    assert found["best"] in found["points"]
    with Image.open(trained / "drawings/evals/sweep-sweep.png") as drawn:
        assert drawn.width > 500


def test_the_best_point_has_the_least_distance_among_those_that_obey():
    points = [
        {"accuracy": 0.5, "frechet": 1.0},
        {"accuracy": 0.985, "frechet": 3.0},
        {"accuracy": 0.99, "frechet": 4.0},
    ]
    assert s.best(points, 0.99)["frechet"] == 3.0
    assert s.best(points, 0.5)["frechet"] == 1.0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (["guidence=1"], "Did you mean 'guidance'"),
        (["guidance"], "field=value"),
        (["steps=" + "1," * 500 + "1"], "points"),
        ([], "0 points"),
    ],
)
def test_a_bad_grid_is_refused(text, match):
    with pytest.raises(ConfigError, match=match):
        s.parse_grid(text)


def test_absurd_requests_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(EvaluationError, match="--num 1"):
        r.evaluate_run(tmp_path, num=1)
    with pytest.raises(ConfigError, match="--name"):
        r.file_name("../elsewhere")


# -------------------------------------------------------------------------------------------------------------- folders


def test_folders_are_compared_and_the_result_is_written(tmp_path):
    first, second = put(tmp_path / "a", glyphs(60, 0)[0]), put(tmp_path / "b", glyphs(60, 1)[0], glyphs(60, 1)[1])
    found = r.evaluate_folders(first, second, out=tmp_path / "scores.json", cache=tmp_path / "cache")
    assert found["counts"]["compared"] == 60 and found["provenance"]["resize"] == "none"
    assert any("few" in warning for warning in found["warnings"])
    assert json.loads((tmp_path / "scores.json").read_text()) == found
    resized = r.evaluate_folders(first, second, size=8, num=30)
    assert resized["provenance"]["shape"] == [1, 8, 8] and "8x8" in resized["provenance"]["resize"]
    assert "floor" in resized["distances"]["random-conv"]["frechet"]


def test_folders_that_cannot_be_compared_are_refused_by_name(tmp_path):
    first, second = put(tmp_path / "a", glyphs(5, 0)[0]), put(tmp_path / "b", glyphs(4, 1)[0])
    (tmp_path / "empty").mkdir()
    for images, references, match in [
        (first, tmp_path / "none", "no such folder"),
        (tmp_path / "empty", first, "is empty"),
        (first, put(tmp_path / "one", glyphs(1, 0)[0]), "has one picture"),
        (first, second, r"a has 5 pictures.*b has 4.*\n.*--num 4"),
        (first, put(tmp_path / "large", np.zeros((5, 1, 20, 20), np.uint8)), "cannot be compared"),
    ]:
        with pytest.raises(EvaluationError, match=match):
            r.evaluate_folders(images, references)


def test_pictures_that_cannot_be_read_are_named(tmp_path):
    folder = put(tmp_path / "a", glyphs(3, 0)[0])
    put(folder / "more", np.zeros((1, 1, 9, 16), np.uint8))
    with pytest.raises(EvaluationError, match=r"0000\.png: 16x9, but 0000\.png is 16x16"):
        pictures.read(pictures.find(folder))
    (folder / "0001.png").write_bytes(b"no picture")
    with pytest.raises(EvaluationError, match=r"0001\.png: cannot be read"):
        pictures.read(pictures.find(folder), size=16)


def test_sheets_are_no_pictures_and_colour_stays(tmp_path):
    folder = put(tmp_path / "a", np.random.default_rng(0).integers(0, 255, (3, 3, 6, 5), dtype=np.uint8))
    Image.new("L", (50, 50)).save(folder / "grid.png")
    found = pictures.read(pictures.find(folder))
    assert found.shape == (3, 3, 6, 5)
    assert pictures.read(pictures.find(folder), channels=1).shape == (3, 1, 6, 5)


# -------------------------------------------------------------------------------------------------------------- compare


def evaluation(frechet, *, accuracy=0.98, count=1000, network="n", judge="j", references="r"):
    return {
        "counts": {"images": 1000, "references": 1000, "compared": count},
        "adherence": {"accuracy": {"value": accuracy, "interval": [accuracy - 0.01, accuracy + 0.01], "num": 1000}},
        "distances": {
            "judge-conv": {
                "frechet": {"value": frechet, "interval": [frechet - 1, frechet + 1]},
                "recall": {"value": 0.5},
            }
        },
        "provenance": {
            "judge": {"sha256": judge},
            "features": [{"name": "judge-conv", "sha256": network}],
            "references": {"sha256": references},
            "shape": [1, 28, 28],
            "resize": "none",
            "prompts": {"wordings": 110},
        },
    }


def written(tmp_path, *evaluations):
    paths = []
    for index, value in enumerate(evaluations):
        paths.append(tmp_path / f"run{index}" / "evals" / "score.json")
        paths[-1].parent.mkdir(parents=True)
        paths[-1].write_text(json.dumps(value))
    return [path.parent.parent for path in paths]


def test_what_is_comparable_is_ranked_and_ties_are_told(tmp_path):
    found = c.compare(written(tmp_path, evaluation(9.0), evaluation(5.0, accuracy=0.9), evaluation(5.5)))
    assert found.refusals == {}
    assert found.ranking["judge-conv.frechet"] == ["run1", "run2", "run0"]
    assert found.ties["judge-conv.frechet"] == [("run1", "run2")]
    assert found.ranking["accuracy"][-1] == "run1"
    assert found.rows[0]["judge-conv.frechet"] == {"value": 9.0, "low": 8.0, "high": 10.0}


@pytest.mark.parametrize(
    ("change", "column", "why"),
    [
        ({"count": 500}, "judge-conv.frechet", "unequal counts: 1000 in run0, 500 in run1"),
        ({"network": "m"}, "judge-conv.frechet", "different feature networks"),
        ({"references": "q"}, "judge-conv.frechet", "other references"),
        ({"judge": "k"}, "accuracy", "different judges"),
    ],
)
def test_what_is_not_comparable_is_not_ranked_and_the_reason_is_said(tmp_path, change, column, why):
    found = c.compare(written(tmp_path, evaluation(9.0), evaluation(5.0, **change)))
    assert why in found.refusals[column] and column not in found.ranking
    assert found.rows[1][column]["value"] is not None  # it is shown all the same


def test_the_newest_evaluation_of_a_run_is_taken_and_no_sweep(tmp_path):
    run = written(tmp_path, evaluation(9.0))[0]
    (run / "evals/newer.json").write_text(json.dumps(evaluation(2.0)))
    (run / "evals/a-sweep.json").write_text("{}")
    assert c.read(run)[1]["distances"]["judge-conv"]["frechet"]["value"] == 2.0


def test_what_is_no_evaluation_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text("[]")
    good = written(tmp_path, evaluation(1.0))[0]
    for path, match in [
        (tmp_path / "empty", "no evaluation in it"),
        (tmp_path / "other.json", "not an evaluation"),
        (tmp_path / "none.json", "JSON"),
    ]:
        with pytest.raises(EvaluationError, match=match):
            c.compare([good, path])
    with pytest.raises(EvaluationError, match="two or more"):
        c.compare([good])
