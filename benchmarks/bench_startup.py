"""Seconds until an answer: `limner --help` against `python -c pass`, and `import limner` against `import diffusers`.

python benchmarks/bench_startup.py [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    commands = {
        "help": [sys.executable, "-m", "limner", "--help"],
        "pass": [sys.executable, "-c", "pass"],
        "import limner": [sys.executable, "-c", "import limner"],
        "import diffusers": [sys.executable, "-c", "from diffusers import DiffusionPipeline"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(2 if options.quick else options.rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(values[1:]) for name, values in found.items()}  # the first reads the disk
    print(measuring.machine() + "\n")
    print(
        measuring.table(
            [
                ("limner --help, against python -c pass", middle["help"], middle["pass"], "s", 10.0),
                ("import limner, against diffusers", middle["import limner"], middle["import diffusers"], "s", None),
            ]
        )
    )


if __name__ == "__main__":
    main()
