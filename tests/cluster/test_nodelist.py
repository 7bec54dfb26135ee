"""Node lists expand as `scontrol show hostnames` would, on nodes that lack it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.cluster.nodelist import compress, expand
from limner.errors import ClusterError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("gpu[008-010,12],cpu1", ["gpu008", "gpu009", "gpu010", "gpu12", "cpu1"]),
        ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
        ("a-b[9-10].site", ["a-b9.site", "a-b10.site"]),
        ("", []),
    ],
)
def test_lists_expand_in_order(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize("text", ["n[1-2", "n1-2]", "n[2-1]", "n[a]", "n[]", "n[[1]]", "a b", "n[1-999999999]", "n[1-999]x[1-999]"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ClusterError, match="cannot read this node list"):
        expand(text)


@settings(deadline=None)
@given(st.lists(st.from_regex(r"[a-z]{1,4}[0-9]{0,4}", fullmatch=True), max_size=30))
def test_what_is_compressed_expands_back(names: list[str]) -> None:
    assert expand(compress(names)) == names
