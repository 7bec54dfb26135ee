"""`limner data check`: the findings, and what SOURCE may be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import class_folder, encoded
from PIL import Image

from limner.data import SOURCES, Folder
from limner.data.check import check
from limner.data.command import check_text, find_source
from limner.errors import ConfigError


def test_findings_are_counted(tmp_path: Path, cache: Path) -> None:
    root = class_folder(tmp_path / "p", 40)
    (root / "class0" / "twin.jpg").write_bytes((root / "class1" / "00001.jpg").read_bytes())
    (root / "class0" / "bad.jpg").write_bytes(b"?")
    Image.fromarray(np.full((24, 24), 7, np.uint8)).save(root / "class2" / "flat.png")
    found = check(Folder(path=root, size=16), cache)
    assert (found.count, found.shape, sum(found.splits.values())) == (42, (3, 16, 16), 42)
    assert found.classes == {"class0": 11, "class1": 10, "class2": 11, "class3": 10}
    assert (found.num_captions, found.captions_per_image, found.words) == (4, (1, 1), 7)
    assert found.duplicates == [["class0/twin.jpg", "class1/00001.jpg"]] and found.constant == ["class2/flat.png"]
    assert [bad.path for bad in found.bad] == ["class0/bad.jpg"]
    text = "\n".join(found.lines())
    assert "42 images of 16x16 pixels, RGB" in text and "1 duplicates" in text and "class0/bad.jpg: not an image" in text


def test_a_source_is_a_recipe_a_kind_a_folder_or_a_table(tmp_path: Path, cache: Path) -> None:
    root = class_folder(tmp_path / "p", 12)
    assert "12 images" in check_text(str(root), ["data.size=8"], cache)
    assert find_source("digits", ["data.limit=9"]) == SOURCES.parse({"kind": "digits", "limit": 9})
    assert find_source("shapes", []).kind == "shapes"
    (tmp_path / "r.yaml").write_text(f"data: {{kind: folder, path: {root}}}\ntrain: {{images: 1}}\n")
    assert find_source(str(tmp_path / "r.yaml"), []) == Folder(path=root)
    (tmp_path / "t.csv").write_text("image,text\n")
    assert find_source(str(tmp_path / "t.csv"), []).kind == "csv"
    with pytest.raises(ConfigError, match="Did you mean 'digits'"):
        find_source("digit", [])
    with pytest.raises(ConfigError, match="only the data"):
        find_source("digits", ["train.images=3"])
    (tmp_path / "r.yaml").write_text("dta: 1\n")
    with pytest.raises(ConfigError, match="no key data"):
        find_source(str(tmp_path / "r.yaml"), [])


OWN = """
from typing import Literal
import numpy as np
from limner.data import Example, Source

class Rings(Source):
    kind: Literal["rings.py:Rings"] = "rings.py:Rings"
    num: int = 5

    def examples(self):
        for i in range(self.num):
            yield Example(np.full((28, 28), i, np.uint8), f"ring {i}", texts=(f"a ring {i}",))
"""


def test_a_source_of_ones_own_is_one_class_in_one_file(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rings.py").write_text(OWN)
    (tmp_path / "r.yaml").write_text("data: {kind: 'rings.py:Rings', num: 7}\n")
    store = find_source("r.yaml", []).open(cache)
    assert store.images.shape == (7, 3, 28, 28) and store.captions_of(6) == ["a ring 6"]


def test_opening_data_imports_no_heavy_library() -> None:
    heavy = ("torch", "scipy", "pyarrow", "datasets", "mlxtend")
    code = f"import sys, limner.data; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_encoded_pictures_of_the_tests_are_pictures() -> None:
    assert encoded(1) == encoded(1) != encoded(2)
