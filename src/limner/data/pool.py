"""Decoding by several processes with bounded memory, straight into the rows of a file. Next: `worker.py`.

The processes are plain programs, not forks: a parent with threads (torch has some) forks unsafely, and `spawn` would
run the user's own script again.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from limner.data.worker import Item, decode_rows
from limner.errors import DataError

NUM_ITEMS = 64  # a job's images
NUM_BYTES = 16 * 2**20  # a job's bytes
INLINE = 128  # so few images are decoded here: processes take longer to start

Job = tuple[int, list[Item]]


class Pool:
    """Decodes into consecutive rows of a file. Use as a context manager; `finish` returns the bad rows.

    Arguments:
        out: the file of raw rows, which exists.
        shape: [C, H, W] of a row.
        own_size: True when images are not resized but must have this shape.
        processes: how many decode at once.
    """

    def __init__(self, out: Path, shape: tuple[int, int, int], *, own_size: bool, processes: int) -> None:
        self.out, self.shape, self.own_size, self.processes = out, shape, own_size, processes
        self.bad: dict[int, str] = {}
        self._items: list[Item] = []
        self._row = self._bytes = self._num_put = 0
        self._waiting: list[Job] = []
        self._jobs: queue.Queue[Job | None] = queue.Queue(maxsize=2 * processes)
        self._threads: list[threading.Thread] = []
        self._workers: list[subprocess.Popen[bytes]] = []
        self._error: BaseException | None = None
        self._stopping = False

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.kill()
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def put(self, row: int, item: Item) -> None:
        """Decode `item` (a path as str, or bytes) into `row`. Rows come in rising order."""
        if self._items and (row != self._row + len(self._items) or len(self._items) >= NUM_ITEMS or self._bytes > NUM_BYTES):
            self._send()
        if not self._items:
            self._row = row
        self._items.append(item)
        self._bytes += len(item) if isinstance(item, bytes) else 0
        self._num_put += 1

    def finish(self) -> dict[int, str]:
        """Wait for all rows; return row -> reason of those that cannot be read.

        Raises: OSError when rows cannot be written, DataError when a decoder died.
        """
        if self._items:
            self._send()
        for row, items in self._inline():
            fd = os.open(self.out, os.O_WRONLY)
            try:
                self.bad.update(decode_rows(fd, row, items, self.shape, own_size=self.own_size))
            finally:
                os.close(fd)
        for _ in self._threads:
            self._enqueue(None)
        for thread in self._threads:
            thread.join()
        if self._error:
            raise self._error
        return self.bad

    def _inline(self) -> Iterator[Job]:
        while self._waiting:
            yield self._waiting.pop(0)

    def _send(self) -> None:
        job = (self._row, self._items)
        self._items, self._bytes = [], 0
        if self._threads:
            self._enqueue(job)
            return
        self._waiting.append(job)
        if self._num_put > INLINE or sum(isinstance(item, bytes) for item in job[1]) > NUM_ITEMS // 2:
            for _ in range(self.processes):
                worker = self._start()
                self._workers.append(worker)
                self._threads.append(threading.Thread(target=self._feed, args=(worker,), daemon=True))
                self._threads[-1].start()
            for waiting in self._inline():
                self._enqueue(waiting)

    def _enqueue(self, job: Job | None) -> None:
        while True:
            if self._error:
                raise self._error
            with contextlib.suppress(queue.Full):
                self._jobs.put(job, timeout=0.2)
                return

    def _start(self) -> subprocess.Popen[bytes]:
        package = Path(__file__).parents[2]  # where the worker finds limner, installed or not
        paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        worker = subprocess.Popen(
            [sys.executable, "-m", "limner.data.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        head = {"out": str(self.out.absolute()), "shape": self.shape, "own_size": self.own_size}
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(head).encode() + b"\n")
        return worker

    def _feed(self, worker: subprocess.Popen[bytes]) -> None:
        items: list[Item] = []
        try:
            while (job := self._next()) is not None:
                row, items = job
                self._ask(worker, row, items)
        except BaseException as error:  # noqa: BLE001 (raised again by the thread that waits for this one)
            if not self._stopping and self._error is None:
                died = isinstance(error, ValueError | BrokenPipeError)
                self._error = DataError(f"{_first(items)}: the decoder died on it or one of the next.") if died else error

    def _next(self) -> Job | None:
        while not self._stopping:
            with contextlib.suppress(queue.Empty):
                return self._jobs.get(timeout=0.2)
        return None

    def _ask(self, worker: subprocess.Popen[bytes], row: int, items: list[Item]) -> None:
        assert worker.stdin is not None and worker.stdout is not None
        job = {"row": row, "items": [item if isinstance(item, str) else len(item) for item in items]}
        worker.stdin.write(json.dumps(job).encode() + b"\n")
        for item in items:
            if isinstance(item, bytes):
                worker.stdin.write(item)
        worker.stdin.flush()
        reply = json.loads(worker.stdout.readline())
        if "errno" in reply:
            raise OSError(reply["errno"], os.strerror(reply["errno"]), str(self.out))
        self.bad.update({row: reason for row, reason in reply["bad"]})


def _first(items: list[Item]) -> str:
    return items[0] if items and isinstance(items[0], str) else "an image"
