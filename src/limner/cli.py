"""The verbs of `limner`. Each imports what it needs when it runs, so that `limner --help` answers at once.

Errors are raised as LimnerError and become one message and exit code 2 in `__main__.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cluster.cli import app as cluster_app

app = typer.Typer(
    name="limner",
    help="Trains text-conditioned image diffusion models from scratch, judges them and samples from them.\n\n"
    "Start with: limner train digits    (two minutes on a laptop)",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(cluster_app, name="cluster")
plot_app = typer.Typer(help="Pictures of schedules and of a run's training.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(plot_app, name="plot")
data_app = typer.Typer(help="Look at data sources before training on them.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

RESUMABLE = 75  # EX_TEMPFAIL: stopped by a signal, not finished, go on with --resume

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[a.b=c]...", help="Changes to the recipe.")]
Cache = Annotated[Path, typer.Option("--cache", envvar="LIMNER_CACHE", help="Where decoded data and judges are kept.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Solver steps.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="0 unconditional, 1 conditional, above 1 guided.")]
SamplerName = Annotated[str | None, typer.Option("--sampler", help="ab2, heun, ddim, ...; a wrong name lists them all.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the first image; the next has seed + 1, and so on.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Images computed at once; never changes an image.")]
Ema = Annotated[str | None, typer.Option("--ema", help="Another EMA width, such as 0.15, rebuilt from the run's snapshots.")]
Allow = Annotated[list[str] | None, typer.Option("--allow", help="FILE.py:NAME that the model may use: your own code.")]
Convention = Annotated[str, typer.Option("--guidance-convention", help="standard, or plus-one for systems where 0 is conditional.")]


@app.callback()
def top(debug: bool = typer.Option(False, "--debug", help="Show tracebacks.")) -> None:
    """Read the options that stand before the verb."""


@app.command()
def recipes() -> None:
    """What can be trained: hardware, time, expected and measured score."""
    from limner.config import read_yaml
    from limner.recipe import builtin

    for name, path in builtin().items():
        tree = read_yaml(path)
        typer.echo(f"{name}\n    {tree.get('about', '')}")
        for key in ("hardware", "time", "expected", "measured"):
            if tree.get(key):
                typer.echo(f"    {key + ':':<10} {tree[key]}")
    from limner.evaluation.names import JUDGE_NAMES

    for name, about in JUDGE_NAMES.items():
        typer.echo(f"{name}\n    a judge: {about}")


@app.command()
def train(
    recipe: str = typer.Argument(help="A recipe's name, a FILE.yaml, or a run folder to go on with."),
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder; default runs/NAME.")] = None,
    resume: bool = typer.Option(False, "--resume", help="Go on with the run in --out; start it if it is not there."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the resolved recipe and what it takes; train nothing."),
    cache: Cache = Path("cache"),
) -> None:
    """Train a recipe. Stop it with Ctrl-C, TERM or USR1: it saves at the next step and can go on."""
    if recipe.startswith("judge-"):
        from limner.evaluation.command import train_judge

        train_judge(recipe, overrides or [], out=out, cache=cache, say=lambda words: typer.echo(words, err=True))
        return
    from limner.training import command

    if dry_run:
        typer.echo(command.dry_run(recipe, overrides or []))
        return
    stopped = command.train(recipe, overrides or [], out=out, resume=resume, cache=cache)
    if stopped:
        raise typer.Exit(RESUMABLE)


@app.command()
def plan(
    recipe: str = typer.Argument(help="A recipe's name or FILE.yaml."),
    overrides: Overrides = None,
    devices: int = typer.Option(1, "--devices", min=1, help="How many."),
    device: str = typer.Option("cpu", "--device", help="cpu, a100, h100, ...; a wrong name lists them all."),
) -> None:
    """Parameters, FLOPs an image, memory a device, hours and cost, before anything runs."""
    from limner import plan as planning
    from limner.recipe import find

    typer.echo(planning.describe(planning.plan(find(recipe, overrides or []), devices=devices, device=device)))


@app.command()
def cache(
    recipe: str = typer.Argument(help="A recipe's name or FILE.yaml."), overrides: Overrides = None, cache: Cache = Path("cache")
) -> None:
    """Decode a recipe's images into the cache now, so that training starts at once (and on nodes that see only the cache)."""
    from limner.recipe import find

    store = find(recipe, overrides or []).data.open(cache)
    typer.echo(f"{len(store.images)} images of {'x'.join(map(str, store.images.shape[1:]))} in {cache}; {len(store.bad)} bad files")


@app.command()
def sample(
    run: Path = typer.Argument(help="A run or model folder."),
    prompt: Annotated[list[str] | None, typer.Argument(help="Prompts in quotes.")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="A file with one prompt a line.")] = None,
    num: int = typer.Option(1, "--num", help="Images of each prompt."),
    steps: Steps = None,
    guidance: Guidance = None,
    guidance_convention: Convention = "standard",
    guidance_kind: Annotated[str | None, typer.Option("--guidance-kind", help="cfg, cfg-zero, apg or auto.")] = None,
    interval: Annotated[str | None, typer.Option("--interval", help="Times LOW,HIGH between which guidance acts.")] = None,
    rescale: Annotated[float | None, typer.Option("--rescale", help="Guidance rescale, 0 to 1.")] = None,
    negative: Annotated[str | None, typer.Option("--negative", help="What the images should not show.")] = None,
    sampler: SamplerName = None,
    grid: Annotated[str | None, typer.Option("--grid", help="uniform, trailing, karras, shifted, or a fitted grid's file.")] = None,
    eta: Annotated[float | None, typer.Option("--eta", help="Noise of ddim, 0 to 1.")] = None,
    seed: Seed = 0,
    batch_size: BatchSize = 100,
    ema: Ema = None,
    precision: str = typer.Option("auto", "--precision", help="auto, fp32 or bf16."),
    image: Annotated[Path | None, typer.Option("--image", help="Start from this picture (image-to-image).")] = None,
    strength: float = typer.Option(0.6, "--strength", help="With --image: how far from it, 0 to 1."),
    mask: Annotated[Path | None, typer.Option("--mask", help="With --image: white is repainted, black is kept.")] = None,
    trajectory: Annotated[Path | None, typer.Option("--trajectory", help="Also write the steps as FILE.gif (or .mp4).")] = None,
    interpolate: Annotated[
        int | None, typer.Option("--interpolate", help="So many images from the first prompt and noise to the last.")
    ] = None,
    forever: bool = typer.Option(False, "--forever", help="Go on with new seeds until Ctrl-C."),
    metadata: bool = typer.Option(True, "--metadata/--no-metadata", help="Write the facts into each PNG."),
    allow: Allow = None,
    out: Path = typer.Option(Path("samples"), "--out", help="Folder for 00000.png ..., grid.png and images.jsonl."),
) -> None:
    """Images from prompts. Image i has seed SEED + i, whatever the batch size."""
    from limner import sample_command
    from limner.config import own_code
    from limner.guidance import scale_from

    changes = {
        "steps": steps,
        "guidance": None if guidance is None else scale_from(guidance, guidance_convention),
        "guidance_kind": guidance_kind,
        "interval": sample_command.interval_of(interval),
        "rescale": rescale,
        "sampler": sampler,
        "grid": grid,
        "eta": eta,
    }
    request = sample_command.Request(
        run=run,
        prompts=sample_command.read_prompts(prompt or [], prompts),
        num=num,
        seed=seed,
        batch_size=batch_size,
        changes=changes,
        negative=negative,
        ema=ema,
        precision=precision,
        image=image,
        strength=strength,
        mask=mask,
        trajectory=trajectory,
        interpolate=interpolate,
        forever=forever,
        metadata=metadata,
        allow=tuple(allow or ()),
        out=out,
    )
    with own_code([sampler] if sampler else []):
        sample_command.run(request, say=lambda words: typer.echo(words, err=True))
    typer.echo(str(out))


@app.command(name="eval")
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="A run folder.")] = None,
    num: Annotated[int | None, typer.Option("--num", help="Images; default 1000 for a run.")] = None,
    seeds: int = typer.Option(1, "--seeds", help="Sets of images, for the spread of the scores."),
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: SamplerName = None,
    images: Annotated[Path | None, typer.Option("--images", help="A folder of images to judge instead of a run.")] = None,
    references: Annotated[Path | None, typer.Option("--references", help="With --images: the real ones.")] = None,
    judge: Annotated[Path | None, typer.Option("--judge", help="Another judge (see: limner train judge-digits).")] = None,
    clip: Annotated[
        str | None, typer.Option("--clip", help="A CLIP model, by hub name or folder, for CLIP score and distances.")
    ] = None,
    inception: bool = typer.Option(False, "--inception", help="Also FID in Inception's features."),
    statistics: Annotated[Path | None, typer.Option("--statistics", help="Published reference statistics (.npz).")] = None,
    size: Annotated[int | None, typer.Option("--size", help="With --images: resize both to this side.")] = None,
    precision: str = typer.Option("auto", "--precision", help="auto, fp32 or bf16."),
    batch_size: BatchSize = 100,
    name: Annotated[str | None, typer.Option("--name", help="Of the file in RUN/evals.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="With --images: where to write the scores.")] = None,
    cache: Cache = Path("cache"),
) -> None:
    """Adherence to the prompts, distances to real images, floors and memorisation -> RUN/evals/*.json and RUN/report.html."""
    import sys

    from limner.allocator import keep_freed_memory
    from limner.config import own_code
    from limner.errors import EvaluationError
    from limner.evaluation import run as judging
    from limner.evaluation.summary import summary

    keep_freed_memory()
    command = "limner " + " ".join(sys.argv[1:])
    if images or references:
        if run or not (images and references):
            raise EvaluationError("give either a RUN, or both --images DIR and --references DIR.")
        result = judging.evaluate_folders(
            images,
            references,
            num=num,
            size=size,
            judge=judge,
            inception=inception,
            clip=clip,
            cache=cache,
            out=out,
            command=command,
        )
        typer.echo(summary(result))
        return
    if run is None:
        raise EvaluationError("give a RUN folder, or --images DIR and --references DIR.")
    changes = {"steps": steps, "guidance": guidance, "sampler": sampler}
    with own_code([sampler] if sampler else []):
        result = judging.evaluate_run(
            run,
            num=1000 if num is None else num,
            seeds=seeds,
            seed=seed,
            name=name,
            cache=cache,
            sampling=changes,
            judge=judge,
            inception=inception,
            clip=clip,
            statistics=statistics,
            precision=precision,
            batch_size=batch_size,
            command=command,
            progress=_progress(),
        )
    typer.echo(summary(result))
    typer.echo(f"report: {run / 'report.html'}")


@app.command()
def compare(runs: list[Path] = typer.Argument(help="Runs, or files of RUN/evals.")) -> None:
    """Evaluations side by side; what is not comparable is not ranked, and why is said."""
    from limner.evaluation.compare import compare as comparing
    from limner.evaluation.summary import comparison

    typer.echo(comparison(comparing(runs)))


@app.command()
def sweep(
    run: Path = typer.Argument(help="A run folder."),
    grid: list[str] = typer.Argument(metavar="NAME=V1,V2...", help="guidance=0,1,2 steps=4,8 sampler=ab2,heun ema=0.05,0.1"),
    num: int = typer.Option(500, "--num", help="Images of each point."),
    seed: Seed = 0,
    name: str = typer.Option("sweep", "--name", help="Of the files in RUN/evals."),
    batch_size: BatchSize = 100,
    cache: Cache = Path("cache"),
) -> None:
    """Adherence against distance over guidance, steps, samplers and EMA widths."""
    import sys

    from limner.evaluation.summary import swept
    from limner.evaluation.sweep import parse_grid
    from limner.evaluation.sweep import sweep as sweeping

    values = parse_grid(grid)
    command = "limner " + " ".join(sys.argv[1:])
    result = sweeping(
        run, values, num=num, seed=seed, name=name, cache=cache, batch_size=batch_size, command=command, progress=_progress()
    )
    typer.echo(swept(result))
    typer.echo(f"picture: {run / 'evals' / (name + '-sweep.png')}")


@app.command()
def distill(
    run: Path = typer.Argument(help="The teacher: a finished run."),
    steps: int = typer.Option(2, "--steps", help="Network evaluations of the student: 1, 2 or 4."),
    seconds: Annotated[float | None, typer.Option("--seconds", help="Budget in seconds; default the teacher's own.")] = None,
    images: Annotated[int | None, typer.Option("--images", help="Budget in images (reproducible).")] = None,
    guidance: Guidance = None,
    seed: int = typer.Option(0, "--seed", help="Of the distillation."),
    out: Annotated[Path | None, typer.Option("--out", help="The student's run folder; default RUN-distilled-STEPS.")] = None,
    cache: Cache = Path("cache"),
) -> None:
    """Train a student that needs 1, 2 or 4 network evaluations from a trained teacher, guidance folded in."""
    from limner.distill import distill_command

    folder = out or run.with_name(f"{run.name}-distilled-{steps}")
    done = distill_command(
        run,
        steps=steps,
        seconds=seconds,
        images=images,
        guidance=guidance,
        out=folder,
        seed=seed,
        cache=cache,
        say=lambda w: typer.echo(w, err=True),
    )
    typer.echo(str(done))


@app.command(name="fit-grid")
def fit_grid(
    run: Path = typer.Argument(help="A run or model folder."),
    steps: int = typer.Option(3, "--steps", min=1, max=64, help="Steps of the grid."),
    sampler: str = typer.Option("ab2", "--sampler", help="The sampler it is for."),
    guidance: Guidance = None,
    coefficients: bool = typer.Option(False, "--coefficients", help="Fit the solver's coefficients too."),
    num: int = typer.Option(64, "--num", min=2, help="Images to fit on."),
    seed: int = typer.Option(1_000_000, "--seed", help="Of their noise; away from those you sample with."),
    out: Annotated[Path | None, typer.Option("--out", help="Default: RUN/grids/SAMPLER-STEPS.json.")] = None,
) -> None:
    """Fit the times of a few steps to a model, against a fine reference; sample with --grid FILE."""
    from limner import sample_command

    path, words = sample_command.fit(
        run, steps=steps, sampler=sampler, guidance=guidance, coefficients=coefficients, num=num, seed=seed, out=out
    )
    typer.echo(f"{words}\n{path}")


@plot_app.command(name="schedules")
def plot_schedules(
    out: Path = typer.Option(Path("plots"), "--out", help="Folder for the pictures."),
    image: Annotated[Path | None, typer.Option("--image", help="A picture to noise; default a digit.")] = None,
) -> None:
    """alpha, sigma and log SNR of all schedules, and one picture on its way to noise under each."""
    from limner import plot

    for path in plot.schedules_command(out, image):
        typer.echo(str(path))


@plot_app.command(name="training")
def plot_training(
    run: Path = typer.Argument(help="A run folder."),
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the picture; default RUN.")] = None,
) -> None:
    """Loss, held-out loss, loss by time, gradient norm, learning rate and speed of a run."""
    from limner import plot

    for path in plot.plot_training(run, out=out):
        typer.echo(str(path))


@app.command()
def doctor() -> None:
    """What this machine has, what is missing, and what to do about it."""
    from limner.doctor import report

    text, fit = report()
    typer.echo(text)
    if not fit:
        raise typer.Exit(1)


@app.command()
def check(
    thing: str = typer.Argument(metavar="FILE.py:NAME", help="Your own schedule, target, sampler, network or data source."),
) -> None:
    """Conformance of your own part: the checks that ours pass."""
    from limner.conformance import check as checking

    for line in checking(thing):
        typer.echo(line)


@data_app.command(name="check")
def data_check(
    source: str = typer.Argument(help="A recipe's name or FILE.yaml (its data), or a folder of images."),
    overrides: Overrides = None,
    cache: Cache = Path("cache"),
) -> None:
    """Counts, sizes, captions, duplicates and bad files of a data source."""
    from limner.data.command import check_text

    typer.echo(check_text(source, overrides or [], cache))


@data_app.command(name="fetch")
def data_fetch(
    name: str = typer.Argument(help="A hub dataset's name, such as ylecun/mnist."),
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default data/NAME.")] = None,
) -> None:
    """Bring a hub dataset to disk, for nodes without internet."""
    from limner.data.fetch import fetch

    typer.echo(str(fetch(name, out)))


def _progress() -> Any:
    """Return progress(what, share): a line on the terminal that changes, or a plain line every few seconds."""
    import sys
    import time

    last = [0.0]
    terminal = sys.stderr.isatty()

    def tell(what: str, share: float) -> None:
        now = time.monotonic()
        if now - last[0] < (0.1 if terminal else 5):
            return
        last[0] = now
        text = f"{what} {share:.0%}"
        sys.stderr.write(f"\r\033[K{text}" if terminal else text + "\n")
        if terminal and share >= 1:
            sys.stderr.write("\r\033[K")
        sys.stderr.flush()

    return tell
