"""Training images/s and peak memory: ours against the earlier recipe and against diffusers' U-Net at our geometry.

python benchmarks/bench_training.py [--quick] [--json FILE] [--quality SECONDS]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import measuring
import peers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny batches, one round, nothing to quote")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each arm in each round")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--quality", type=float, metavar="SECONDS", help="also train both for so long and compare adherence")
    parser.add_argument("--arm", choices=["ours", "earlier", "geometry"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    batch = 8 if options.quick else peers.BATCH
    torch.manual_seed(0)
    if options.arm:
        step = {
            "ours": lambda: peers.our_training(batch),
            "earlier": lambda: peers.earlier_training(batch),
            "geometry": lambda: peers.geometry_training(batch, variant=("fp32", False))[0],
        }[options.arm]()
        for _ in range(1 if options.quick else 5):
            step()
        print(json.dumps({"peak_bytes": measuring.peak_memory()}))
        return
    step, variant = peers.geometry_training(batch, variant=("fp32", False) if options.quick else None)
    arms = {"ours": peers.our_training(batch), "earlier": peers.earlier_training(batch), "geometry": step}
    rounds, seconds = (1, 0.01) if options.quick else (options.rounds, options.seconds)
    rate = measuring.rates(arms, rounds=rounds, seconds=seconds)
    script, quick = Path(__file__), ["--quick"] if options.quick else []
    names = ("ours",) if options.quick else tuple(arms)
    memory = {name: measuring.peak_memory_of(script, ["--arm", name, *quick]) / 2**20 for name in names}
    rows = [
        ("training, against the earlier recipe", rate["ours"], rate["earlier"], "images/s", 15.0),
        (f"training, against diffusers at our geometry ({variant})", rate["ours"], rate["geometry"], "images/s", 1.5),
    ]
    rows += [
        (f"peak memory of training, {name}", memory["ours"], memory[name], "MiB", None)
        for name in ("earlier", "geometry")
        if name in memory
    ]
    print(measuring.machine())
    count = sum(p.numel() for p in peers.geometry_unet().parameters())
    print(f"batch {batch}; parameters: earlier {peers.EARLIER_PARAMETERS:,}, geometry {count:,}\n")
    print(measuring.table(rows))
    if options.quality:
        import quality

        print("\n" + quality.compare(options.quality))
    if options.json:
        facts = {"machine": measuring.machine(), "images_per_second": rate, "peak_mib": memory, "batch": batch}
        options.json.write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
