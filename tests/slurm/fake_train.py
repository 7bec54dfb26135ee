"""Keeps the contract of `limner train RECIPE [a.b=c ...] --out RUN --resume` and computes nothing: steps of 0.2 s,
saved on a signal.

FAKE_STEPS is the length; all ranks check that they agree on their rendezvous. `limner eval` and `limner cache` write
one file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from limner.cluster import rendezvous

NOT_FINISHED = 75


def main() -> int:
    verb, *words = sys.argv[1:]
    if verb != "train":
        Path(os.environ["FAKE_OUT"], f"{verb}.txt").write_text(" ".join(words))
        return int(os.environ.get("FAKE_CODE", "0"))
    run = Path(words[words.index("--out") + 1])
    assert "--resume" in words
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda received, frame: told.append(received))
    ranks = rendezvous.environment(os.environ) if int(os.environ.get("SLURM_NTASKS", "1")) > 1 else {"RANK": "0"}
    rank = ranks["RANK"]
    run.mkdir(parents=True, exist_ok=True)
    if (run / "finished.json").exists():
        return 0
    with (run / "starts.jsonl").open("a") as file:
        restarts = os.environ.get("SLURM_RESTART_COUNT", "")
        seen = {"env": ranks, "restarts": restarts, "words": words, "mine": os.environ.get("MINE")}
        file.write(json.dumps(seen) + "\n")
    state = run / f"state-{rank}.json"
    step = json.loads(state.read_text())["step"] if state.exists() else 0
    total = int(os.environ.get("FAKE_STEPS", "5"))
    while step < total:
        time.sleep(0.2)
        step += 1
        if rank == "0":
            row = {"step": step, "images": 8 * step, "loss": 1 / step, "images_per_second": 40.0,
                   "seconds": 0.2 * step, "budget": step / total, "host/cpu_percent": 12.0}  # fmt: skip
            with (run / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        if told:
            time.sleep(1.0 + 2.0 * int(rank))  # ranks do not end together
            state.write_text(json.dumps({"step": step}))
            print(f"rank {rank} saved at step {step} after signal {told[0]}", flush=True)
            return NOT_FINISHED
    if rank == "0":
        (run / "finished.json").write_text("{}")
    print(f"rank {rank} finished", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
