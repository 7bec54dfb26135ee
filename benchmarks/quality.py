"""The pair (seconds, adherence): both recipes trained for the same time on the same digits, judged by one judge."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import peers

NUM = 200


def compare(seconds: float, cache: Path = Path("cache")) -> str:
    """Return a table of adherence after `seconds` of training each, of `NUM` images, 20 a digit."""
    from limner import load
    from limner.evaluation.judges import judge_for
    from limner.generate import generate
    from limner.recipe import find
    from limner.training.loop import train

    recipe = find("digits", [f"train.seconds={seconds}", "train.previews=0"])
    store = recipe.data.open(cache)
    judge = judge_for(store, cache)
    assert judge is not None
    wanted = np.arange(NUM) % 10

    def adherence(images: np.ndarray) -> float:
        return float((judge.probabilities(images).argmax(1) == wanted).mean())

    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(train(recipe, Path(folder) / "run", cache=cache)) as logs:
            for _ in logs:
                pass
        model = load(Path(folder) / "run")
        prompts = [f"a handwritten digit {digit}" for digit in wanted]
        ours = adherence(np.concatenate(list(generate(model, prompts, list(range(NUM))))))
    theirs = {w: adherence(images) for w, images in earlier(store, seconds, wanted).items()}
    lines = ["| recipe | seconds | adherence |", "|---|---|---|", f"| limner digits | {seconds:g} | {ours:.1%} |"]
    return "\n".join(lines + [f"| earlier, guidance {w:g} | {seconds:g} | {share:.1%} |" for w, share in theirs.items()])


def earlier(store: object, seconds: float, wanted: np.ndarray) -> dict[float, np.ndarray]:
    """Return guidance -> images of the earlier recipe after `seconds`, in [-1, 1] and with 10 % of captions dropped."""
    from diffusers import DDPMScheduler

    torch.manual_seed(0)
    ids = store.split("train")  # type: ignore[attr-defined]
    pixels = torch.from_numpy(np.asarray(store.images[ids])).float() / 127.5 - 1  # type: ignore[attr-defined]
    labels = torch.from_numpy(store.labels[ids])  # type: ignore[attr-defined]
    unet, texts = peers.earlier_unet().train(), torch.cat([peers.embeddings(), torch.zeros(1, 8, 512)])
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        rows = torch.randint(0, len(pixels), (peers.BATCH,))
        eps, t = torch.randn(peers.BATCH, 1, 28, 28), torch.randint(0, 1000, (peers.BATCH,))
        captions = torch.where(torch.rand(peers.BATCH) < 0.1, 10, labels[rows])
        optimizer.zero_grad(set_to_none=True)
        y = unet(scheduler.add_noise(pixels[rows], eps, t), t, encoder_hidden_states=texts[captions]).sample
        F.mse_loss(y, eps).backward()
        optimizer.step()
    unet.eval()
    found = {}
    for guidance in (2.0, 8.0):
        scheduler.set_timesteps(50)
        x, given = torch.randn(len(wanted), 1, 28, 28), texts[torch.from_numpy(wanted)]
        both = torch.cat([texts[10:].expand(len(wanted), 8, 512), given])
        with torch.no_grad():
            for t in scheduler.timesteps:
                without, with_caption = unet(torch.cat([x, x]), t, encoder_hidden_states=both).sample.chunk(2)
                x = scheduler.step(without + guidance * (with_caption - without), t, x).prev_sample
        found[guidance] = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return found
