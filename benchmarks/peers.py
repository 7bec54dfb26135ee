"""What is measured: our recipe, the earlier system's recipe in diffusers, and diffusers' U-Net at our geometry.

All arms are fed ready tensors of the same images, so that only text encoder, network, loss, optimizer and solver are
compared. Ours carries its whole step: text encoder, gradient clipping and two averages. The peers' caption embeddings
are fixed, which favours them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limner.generate import generate
from limner.model import Model, ModelConfig, assemble, autocast, probe_precision
from limner.recipe import Recipe, find
from limner.training.ema import PowerEMA
from limner.training.objective import Learner

EARLIER_PARAMETERS = 3_140_385
BATCH = 128


def digits() -> tuple[Recipe, list[str]]:
    """Return the recipe `digits` and its captions, without opening data."""
    from limner.data.captions import class_values, render

    recipe = find("digits")
    names = recipe.data.class_names()
    return recipe, [c for i in range(10) for c in render(recipe.data.wording(), class_values(names, i))]


def our_model() -> tuple[Recipe, Model, list[str]]:
    """Return recipe, untrained model in the precision that its probe chooses, and captions."""
    recipe, captions = digits()
    config = ModelConfig(
        channels=1,
        size=(28, 28),
        codec=recipe.codec,
        text=recipe.text,
        network=recipe.network,
        process=recipe.process,
        target=recipe.target,
        t_max=recipe.times.t_max,
        sample=recipe.sample,
    )
    model = assemble(config, recipe.text.build(captions, {}))
    model.precision = probe_precision(model)
    return recipe, model, captions


def our_training(batch: int = BATCH) -> Callable[[], int]:
    """Return one training step of the recipe `digits`."""
    recipe, model, captions = our_model()
    learner = Learner(model.text, model.network, process=recipe.process, target=recipe.target).train()
    parameters = dict(learner.named_parameters())
    train = recipe.train
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-4, betas=train.betas, weight_decay=0.0, fused=True)
    averages = [PowerEMA(parameters, width) for width in train.ema]
    x0 = torch.rand(batch, 1, 28, 28) * 2 - 1
    texts = ["" if i % 10 == 0 else captions[i % len(captions)] for i in range(batch)]
    count = itertools.count(1)

    def step() -> int:
        t = recipe.times.draw(torch.rand(batch))
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu"), model.precision):
            loss = learner(x0, torch.randn_like(x0), t, texts).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), train.clip)
        optimizer.step()
        number = next(count)
        for average in averages:
            average.update(parameters.values(), number)
        return batch

    return step


def our_sampling(batch: int) -> Callable[[], int]:
    """Return the generation of one batch with the recipe's sampling defaults, captions encoded and pixels decoded."""
    _, model, captions = our_model()
    seeds = itertools.count()

    def sample() -> int:
        prompts = [captions[i % len(captions)] for i in range(batch)]
        for images in generate(model, prompts, [next(seeds) for _ in prompts], batch_size=batch):
            assert images.shape == (batch, 1, 28, 28)
        return batch

    return sample


# -------------------------------------------------------------------------------------------------- the earlier recipe


def earlier_unet() -> Any:
    """Return the earlier system's U-Net of exactly 3,140,385 parameters."""
    from diffusers import UNet2DConditionModel  # in functions only: our arm's memory is measured without it

    unet = UNet2DConditionModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=512,
    )
    found = sum(p.numel() for p in unet.parameters())
    assert found == EARLIER_PARAMETERS, f"{found} parameters, not {EARLIER_PARAMETERS}"
    return unet


def embeddings() -> Tensor:
    """Return the fixed caption embeddings [10 digits, 8 tokens, 512]."""
    return torch.randn(10, 8, 512, generator=torch.Generator().manual_seed(0))


def earlier_training(batch: int = BATCH) -> Callable[[], int]:
    """Return one training step of the earlier recipe: eps, squared cosine, AdamW 1e-3, fp32."""
    from diffusers import DDPMScheduler

    unet = earlier_unet().train()
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    x0, texts = torch.rand(batch, 1, 28, 28) * 2 - 1, embeddings()[torch.arange(batch) % 10]

    def step() -> int:
        eps, t = torch.randn_like(x0), torch.randint(0, 1000, (batch,))
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(unet(scheduler.add_noise(x0, eps, t), t, encoder_hidden_states=texts).sample, eps).backward()
        optimizer.step()
        return batch

    return step


def earlier_sampling(batch: int, steps: int = 50) -> Callable[[], int]:
    """Return the generation of one batch by the earlier recipe: 50 guided steps of DDPM, both halves in one batch."""
    from diffusers import DDPMScheduler

    unet = earlier_unet().eval()
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    texts = embeddings()[torch.arange(batch) % 10]
    both = torch.cat([torch.zeros_like(texts), texts])

    @torch.no_grad()
    def sample() -> int:
        scheduler.set_timesteps(steps)
        x = torch.randn(batch, 1, 28, 28)
        for t in scheduler.timesteps:
            without, given = unet(torch.cat([x, x]), t, encoder_hidden_states=both).sample.chunk(2)
            x = scheduler.step(without + 8.0 * (given - without), t, x).prev_sample
        return batch

    return sample


# ---------------------------------------------------------------------------------------------------- our geometry


def geometry_unet() -> Any:
    """Return diffusers' U-Net over 14x14x4 (space-to-depth), widths 32 and 64, attention in the middle only."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=14,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=64,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def geometry_training(batch: int = BATCH, *, variant: tuple[str, bool] | None = None) -> tuple[Callable[[], int], str]:
    """Return (one training step with the flow loss, which variant): the fastest of fp32/bf16 in both memory formats."""
    if variant is None:
        variants = list(itertools.product(("fp32", "bf16"), (False, True)))
        seconds = {}
        for candidate in variants:
            step, _ = geometry_training(batch, variant=candidate)
            step()
            passed = []
            for _ in range(2):
                start = time.perf_counter()
                step()
                passed.append(time.perf_counter() - start)
            seconds[candidate] = min(passed)
        variant = min(seconds, key=seconds.__getitem__)
    precision, last = variant
    layout = torch.channels_last if last else torch.contiguous_format
    unet = geometry_unet().train().to(memory_format=layout)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3, fused=True)
    x0 = F.pixel_unshuffle(torch.rand(batch, 1, 28, 28) * 2 - 1, 2)
    texts = torch.randn(10, 12, 64)[torch.arange(batch) % 10]

    def step() -> int:
        eps, t = torch.randn_like(x0), torch.rand(batch)
        x_t = torch.lerp(x0, eps, t[:, None, None, None]).contiguous(memory_format=layout)
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu"), precision):
            y = unet(x_t, t * 1000, encoder_hidden_states=texts).sample
        F.mse_loss(y.float(), eps - x0).backward()
        optimizer.step()
        return batch

    return step, f"{precision}, {'channels-last' if last else 'contiguous'}"
