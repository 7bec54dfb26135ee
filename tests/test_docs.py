"""What the manual shows works as it stands there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def test_the_schedule_of_the_manual_is_checked_trained_and_sampled(
    limner: Any, recipe_file: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    Path("my_schedule.py").write_text(example)
    kind = "my_schedule.py:Sine"
    assert limner("check", kind).code == 0
    words = ["train.images=32", f"process.kind={kind}", "target.kind=v", "--out", "run", "--cache", cache]
    done = limner("train", recipe_file, *words)
    assert done.code == 0, done.err
    refused = limner("sample", "run", "7")
    assert refused.code == 2 and f"--allow {kind}" in refused.err
    assert limner("sample", "run", "7", "--allow", kind).code == 0


def test_every_page_that_the_readme_names_is_there() -> None:
    import re

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = re.findall(r"\]\(([^)h][^)]*)\)", text)
    assert len(pages) > 6
    for page in pages:
        assert (ROOT / page).is_file(), page
