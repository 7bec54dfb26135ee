"""One judge of drawings for all tests of this folder, trained in two seconds."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from glyphs import NAMES, QUICK, glyphs

from limner.evaluation.evaluate import Real
from limner.evaluation.judge import Seen, train_judge


@pytest.fixture(scope="session")
def judge():
    images, labels = glyphs(600, 1)
    found = train_judge(images, labels, QUICK, class_names=NAMES, seen=Seen("glyphs", ("judge",), 600))
    found.test(*glyphs(400, 2))
    return found


@pytest.fixture(scope="session")
def real():
    references, labels = glyphs(600, 3)
    train, _ = glyphs(1200, 4)
    other, _ = glyphs(600, 5)
    return Real(references, labels, train, train, other, "glyphs")
