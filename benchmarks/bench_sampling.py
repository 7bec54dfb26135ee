"""Sampling images/s and peak memory: our defaults against the earlier recipe's 50 guided DDPM steps, at batch 1 and 64.

python benchmarks/bench_sampling.py [--quick] [--json FILE]
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
    parser.add_argument("--quick", action="store_true", help="a smoke test: one round, two steps, nothing to quote")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each arm in each round")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--arm", choices=["ours", "earlier"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    steps = 2 if options.quick else 50
    batches = (1, 4) if options.quick else (1, 64)
    torch.manual_seed(0)
    if options.arm:
        sample = peers.our_sampling(batches[1]) if options.arm == "ours" else peers.earlier_sampling(batches[1], steps)
        sample()
        print(json.dumps({"peak_bytes": measuring.peak_memory()}))
        return
    rounds, seconds = (1, 0.01) if options.quick else (options.rounds, options.seconds)
    rows: list[tuple[str, float, float, str, float | None]] = []
    found = {}
    for batch in batches:
        arms = {"ours": peers.our_sampling(batch), "earlier": peers.earlier_sampling(batch, steps)}
        rate = found[batch] = measuring.rates(arms, rounds=rounds, seconds=seconds)
        rows.append((f"sampling, batch {batch}", rate["ours"], rate["earlier"], "images/s", 40.0))
    memory = {}
    if not options.quick:
        memory = {arm: measuring.peak_memory_of(Path(__file__), ["--arm", arm]) / 2**20 for arm in ("ours", "earlier")}
        rows.append((f"peak memory, batch {batches[1]}", memory["ours"], memory["earlier"], "MiB", 1.0))
    print(measuring.machine())
    recipe, _ = peers.digits()
    sampling = recipe.sample
    print(
        f"ours: {sampling.sampler}, {sampling.steps} steps, w {sampling.guidance:g} in {list(sampling.interval)}; "
        f"earlier: DDPM, {steps} steps, guidance 8\n"
    )
    print(measuring.table(rows))
    if options.json:
        facts = {"machine": measuring.machine(), "images_per_second": found, "peak_mib": memory}
        options.json.write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
