"""Time and peak memory of `make demo` (or of any command): the largest sum of resident sizes over its processes.

python benchmarks/bench_demo.py [COMMAND ...]
"""

from __future__ import annotations

import argparse
import subprocess
import time

import psutil

import measuring

LIMIT = 1.5  # GiB


def tree_memory(process: psutil.Process) -> int:
    """Return the resident bytes of a process and all below it (shared pages count in each)."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="default: make demo")
    command = parser.parse_args().command or ["make", "demo"]
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            peak = max(peak, tree_memory(process))
            time.sleep(0.1)
    seconds, size = time.perf_counter() - start, peak / 2**30
    print(measuring.machine())
    verdict = "kept" if size <= LIMIT else "BROKEN"
    print(f"{' '.join(command)}: exit {running.returncode}, {seconds:.1f} s, peak {size:.3f} GiB")
    print(f"that is {size / LIMIT:.2f} times the promised {LIMIT} GiB: {verdict}")
    return running.returncode or int(size > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
