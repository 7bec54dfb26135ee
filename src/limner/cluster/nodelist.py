"""Slurm's short node lists, such as `gpu[01-03,07]`: expanded here, because compute nodes may lack `scontrol`."""

from __future__ import annotations

import re

from limner.errors import ClusterError, shorten

MAX_NODES = 200_000
_BRACKET = re.compile(r"\[([^\[\]]*)\]")


def expand(text: str) -> list[str]:
    """Return the node names of a list such as `gpu[01-03,07],cpu1`, in its order, zero padding kept.

    Raises: ClusterError when the list is not well formed or holds more than 200,000 names.
    """
    names: list[str] = []
    for part in _split(text.strip()):
        names.extend(_expand_part(part, text))
        if len(names) > MAX_NODES:
            raise ClusterError(f"cannot read this node list: more than {MAX_NODES} names in {shorten(text)}.")
    return names


def compress(names: list[str]) -> str:
    """Return names as one short list, `gpu[01-03],login`; the shortest form is not promised, only that it expands
    back.
    """
    parts: list[str] = []
    run: tuple[str, str, int, int] | None = None  # prefix, first digits, first number, last number
    for name in names:
        match = re.fullmatch(r"(.*?)(\d+)", name)
        if match is None or len(match[2]) > 12:
            parts.append(_close(run))
            parts.append(name)
            run = None
            continue
        prefix, digits = match[1], match[2]
        if run and run[0] == prefix and int(digits) == run[3] + 1 and digits == str(int(digits)).zfill(len(run[1])):
            run = (prefix, run[1], run[2], run[3] + 1)
        else:
            parts.append(_close(run))
            run = (prefix, digits, int(digits), int(digits))
    parts.append(_close(run))
    return ",".join(part for part in parts if part)


def _close(run: tuple[str, str, int, int] | None) -> str:
    if run is None:
        return ""
    prefix, digits, first, last = run
    return prefix + digits if first == last else f"{prefix}[{digits}-{str(last).zfill(len(digits))}]"


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            break
        if letter == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    if depth != 0:
        raise ClusterError(f"cannot read this node list: brackets do not match in {shorten(text)}.")
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def _expand_part(part: str, whole: str) -> list[str]:
    match = _BRACKET.search(part)
    if match is None:
        if re.search(r"[\s\[\]|()]", part):
            raise ClusterError(f"cannot read this node list: {shorten(part)} is no node name (in {shorten(whole)}).")
        return [part]
    head, tail = part[: match.start()], part[match.end() :]
    tails = _expand_part(tail, whole) if tail else [""]
    names: list[str] = []
    for piece in match[1].split(","):
        for number in _range(piece.strip(), whole):
            names.extend(f"{head}{number}{rest}" for rest in tails)
            if len(names) > MAX_NODES:
                raise ClusterError(f"cannot read this node list: more than {MAX_NODES} names in {shorten(whole)}.")
    return names


def _range(piece: str, whole: str) -> list[str]:
    match = re.fullmatch(r"(\d{1,12})(?:-(\d{1,12}))?", piece, re.ASCII)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        raise ClusterError(f"cannot read this node list: {shorten(piece)} is no range (in {shorten(whole)}).")
    first, last = int(match[1]), int(match[2] or match[1])
    if last - first >= MAX_NODES:
        raise ClusterError(f"cannot read this node list: more than {MAX_NODES} names in {shorten(whole)}.")
    return [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
