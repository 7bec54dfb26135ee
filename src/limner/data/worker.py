"""The decoding process: `python -m limner.data.worker`, spoken to by `pool.py` over its standard input and output.

A first line of JSON says where to write and what shape; every further line is a job, answered by one line. Nothing is
pickled, and when the parent dies the input ends and so does this. Next: `build.py`.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from limner.data.decoding import UnreadableError, decode

Item = str | bytes


def decode_rows(fd: int, row: int, items: list[Item], shape: tuple[int, int, int], *, own_size: bool) -> list[tuple[int, str]]:
    """Decode `items` into consecutive rows of the open file `fd` from `row` on; return (row, reason) of the bad ones.

    Arguments:
        shape: [C, H, W] of a row.
        own_size: True when images are not resized but must have this shape.
    Raises: OSError when the rows cannot be written.
    """
    rows = np.zeros((len(items), *shape), np.uint8)
    bad = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what matters is an error
        for k, item in enumerate(items):
            try:
                pixels = decode(item, channels=shape[0], size=None if own_size else shape[1:])
                if pixels.shape != shape:
                    size, expected = pixels.shape[1:][::-1], shape[1:][::-1]
                    raise UnreadableError(f"{size[0]}x{size[1]} pixels, the others {expected[0]}x{expected[1]}: give a `size`")
                rows[k] = pixels
            except UnreadableError as error:
                bad.append((row + k, str(error)))
    write_at(fd, memoryview(rows.data).cast("B"), row * int(np.prod(shape)))
    return bad


def write_at(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; raise OSError when it does not fit."""
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer jobs until the input ends."""
    head = json.loads(requests.readline())
    shape = tuple(head["shape"])
    fd = os.open(Path(head["out"]), os.O_WRONLY)
    try:
        while line := requests.readline():
            job = json.loads(line)
            items = [item if isinstance(item, str) else requests.read(item) for item in job["items"]]
            try:
                reply = {"bad": decode_rows(fd, job["row"], items, shape, own_size=head["own_size"])}
            except OSError as error:
                reply = {"errno": error.errno}  # type: ignore[dict-item]
            replies.write(json.dumps(reply).encode() + b"\n")
            replies.flush()
    finally:
        os.close(fd)


if __name__ == "__main__":
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(1)  # the parent has been stopped; it speaks for us
