"""Training jobs: submit (with sweeps and chains), follow, cancel, requeue.

What is asked of Slurm is worked out here from the profile and the cluster's nodes; `script.py` writes it down,
`records.py` remembers it.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from limner.cluster import inventory, queue, records, script, slurm
from limner.cluster.nodes import Node
from limner.cluster.profile import Profile, interpreter
from limner.errors import ClusterError, nearest, shorten

CHAIN = ("cache", "train", "eval")
MAX_SWEEP = 1000


@dataclass(frozen=True)
class Request:
    """What the user asks for; 0 and "" leave it to the profile and to a fair share of the node. `gpus` is for each
    node.
    """

    gpus: int = 1
    nodes: int = 1
    hours: float = 24.0
    gpu_type: str = ""
    cpus: int = 0
    memory_gb: float = 0.0
    partition: str = ""
    qos: str = ""
    node: str = ""


def resources(request: Request, profile: Profile) -> script.Resources:
    """Return what to ask of Slurm: one task a GPU (or one a node without), CPUs and memory a fair share of the nodes
    meant.

    Raises: ClusterError when no node of this cluster could ever give it.
    """
    if request.gpus < 0 or request.nodes < 1:
        raise ClusterError(f"--gpus {request.gpus} --nodes {request.nodes}: give 0 or more GPUs a node, on 1 or more nodes.")
    script.clock(request.hours)
    partition = request.partition or (profile.gpu_partition if request.gpus else profile.cpu_partition)
    all_nodes = inventory.read_nodes()
    nodes = [node for node in all_nodes if not partition or partition in node.partitions]
    if partition and not nodes:
        have = sorted({name for node in all_nodes for name in node.partitions})
        raise ClusterError(
            f"this cluster has no partition {partition!r}.{nearest(partition, have)} It has: {', '.join(have)}.\n"
            "Try: limner cluster profile"
        )
    if request.node:
        nodes = [inventory.find_node(all_nodes, request.node)]
    kind = request.gpu_type
    if request.gpus and kind:
        nodes = inventory.of_type(nodes, kind)
        kinds = {gpu.type for node in nodes for gpu in node.gpus if gpu.total >= request.gpus} or {kind}
        kind = kind if kind in kinds else min(kinds)
    able = [node for node in nodes if node.gpus_total >= request.gpus]
    if len(able) < request.nodes:
        most = max((node.gpus_total for node in nodes), default=0)
        raise ClusterError(
            f"no {request.nodes} node(s) here have {request.gpus} GPU(s){' of type ' + kind if kind else ''} each: "
            f"there are {len(able)}, and the most GPUs on one node are {most}.\nTry: limner cluster nodes"
        )
    tasks = max(1, request.gpus)
    cpus, memory = _share(able, request, profile)
    return script.Resources(
        hours=request.hours,
        nodes=request.nodes,
        tasks=tasks,
        gpus=request.gpus,
        gpu_type=kind,
        cpus=cpus,
        memory_mb=memory,
        partition=partition,
        qos=request.qos or (profile.gpu_qos if request.gpus else profile.cpu_qos),
        account=profile.account,
        nodelist=request.node,
        more=tuple(profile.sbatch),
    )


def _share(nodes: Sequence[Node], request: Request, profile: Profile) -> tuple[int, int]:
    """CPUs for each task and MB for each node: what was asked, else a fair share of the smallest node that could be
    given.
    """
    tasks = max(1, request.gpus)
    parts = [node.gpus_total if request.gpus else max(1, node.cpus // 4) for node in nodes]
    fair_cpus = min((max(1, min(16, node.cpus // part)) for node, part in zip(nodes, parts, strict=True)), default=1)
    fair_memory = min((int(0.95 * node.memory * tasks / part) for node, part in zip(nodes, parts, strict=True)), default=0)
    cpus = request.cpus or (profile.cpus_per_gpu if request.gpus else 0) or fair_cpus
    per_gpu = profile.memory_per_gpu_gb if request.gpus else 0
    memory = round(request.memory_gb * 1024) or per_gpu * 1024 * tasks or fair_memory
    return cpus, memory


def surroundings(profile: Profile) -> script.Surroundings:
    """Return what the profile says has to be there before Python runs."""
    return script.Surroundings(tuple(interpreter(profile)), tuple(profile.modules), profile.activate, dict(profile.environment))


def find_recipe(recipe: str) -> str:
    """Return the recipe as a job on another folder needs it: a file's absolute path, or the name of one of the
    package's.

    Raises: ClusterError naming the nearest recipe.
    """
    path = Path(recipe)
    if path.is_file():
        return str(path.resolve())
    names = sorted(found.stem for found in (Path(__file__).parents[1] / "recipes").glob("*.yaml"))
    if recipe in names:
        return recipe
    raise ClusterError(
        f"there is no recipe {shorten(recipe)}: neither a file nor one of the package's.{nearest(recipe, names)}\n"
        f"Recipes: {', '.join(names) or 'none'}."
    )


def sweep_points(sweep: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each run of a sweep: the product of all `a.b=1,2,3`.

    Raises: ClusterError when one has no values, or there are more than 1,000 runs.
    """
    axes = []
    for text in sweep:
        key, _, values = text.partition("=")
        items = [value.strip() for value in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", values)]
        if not re.fullmatch(r"\w+(\.\w+)*", key) or not all(items) or not re.fullmatch(r"[^,]+(,[^,]+)*", values):
            raise ClusterError(f"--sweep {shorten(text)}: write key.key=value,value, such as --sweep train.lr=0.001,0.002")
        axes.append([f"{key}={item}" for item in items])
    if math.prod(len(axis) for axis in axes) > MAX_SWEEP:
        raise ClusterError(f"--sweep asks for more than {MAX_SWEEP} runs. Give fewer values.")
    return [list(point) for point in itertools.product(*axes)] if axes else []


@dataclass(frozen=True)
class Plan:
    """One job to submit: its verb, run folder, script, and the sweep's run folders if it is an array."""

    verb: str
    run: Path
    text: str
    runs: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where the script is kept: `job.sbatch` in the run folder, other verbs beside it."""
        return self.run / ("job.sbatch" if self.verb == "train" else f"{self.verb}.sbatch")


def plan(
    recipe: str,
    overrides: Sequence[str],
    request: Request,
    profile: Profile,
    *,
    out: Path | None = None,
    sweep: Sequence[str] = (),
    chain: Sequence[str] = ("train",),
) -> list[Plan]:
    """Return the jobs to submit, in order; each waits for the one before it to succeed.

    Raises: ClusterError when the recipe, the chain, the sweep or the resources cannot be.
    """
    for verb in chain:
        if verb not in CHAIN:
            raise ClusterError(f"--chain {shorten(verb)}: there is no such step.{nearest(verb, CHAIN)} Steps: {', '.join(CHAIN)}.")
    if list(chain) != [verb for verb in CHAIN if verb in chain]:
        raise ClusterError(f"--chain {','.join(chain)}: the order is {','.join(CHAIN)}, each once.")
    for text in overrides:
        if "=" not in text or "\n" in text:
            raise ClusterError(f"{shorten(text)}: an override is written key.key=value, such as train.images=200000.")
    points = sweep_points(sweep)
    if points and list(chain) != ["train"]:
        raise ClusterError("--sweep and --chain do not go together: submit the cache first, then the sweep.")
    recipe = find_recipe(recipe)
    run = (out or Path("runs") / Path(recipe).stem).resolve()
    asked, around = resources(request, profile), surroundings(profile)
    single = replace(asked, nodes=1, tasks=1, gpus=min(1, asked.gpus), memory_mb=asked.memory_mb // asked.tasks)
    plans = []
    for verb in chain:
        if verb == "train":
            runs = [(str(run / ",".join(point).replace("/", "-").replace(" ", "")), point) for point in points]
            text = script.train_script(asked, around, recipe=recipe, overrides=overrides, run=str(run), sweep=runs)
            plans.append(Plan(verb, run, text, tuple(folder for folder, _ in runs)))
            continue
        words = ["limner", "cache", recipe, *overrides] if verb == "cache" else ["limner", "eval", str(run)]
        name = f"limner-{verb}"
        text = script.simple_script(single, around, name=name, log=f"{run}/{verb}-%j.log", arguments=words)
        plans.append(Plan(verb, run, text))
    return plans


def submit(plans: Sequence[Plan]) -> list[str]:
    """Keep each script in its run folder, submit it, and return the job ids; each job waits for the one before it.

    Raises: ClusterError; jobs of the chain that were submitted before are then cancelled.
    """
    ids: list[str] = []
    try:
        for step in plans:
            if step.verb == "train":
                refuse_double(step.run)
            step.run.mkdir(parents=True, exist_ok=True)
            step.path.write_text(step.text, encoding="utf-8")
            after = [f"--dependency=afterok:{ids[-1]}", "--kill-on-invalid-dep=yes"] if ids else []
            ids.append(sbatch(step.path, after))
            log = str(step.run) + (
                "/job-%A_%a.log" if step.runs else "/job-%j.log" if step.verb == "train" else f"/{step.verb}-%j.log"
            )
            records.remember(records.Record(ids[-1], step.verb, log, str(step.run), step.runs))
    except ClusterError:
        for job in ids:
            cancel(job)
        raise
    return ids


def sbatch(path: Path, options: Sequence[str] = ()) -> str:
    """Submit a script and return the job's id. The environment goes along, but not that of a job this is called from.

    Raises: ClusterError in words when Slurm refuses.
    """
    inherited = ("SLURM_", "SBATCH_", "SRUN_")
    keep = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")
    environ = {key: value for key, value in os.environ.items() if key in keep or not key.startswith(inherited)}
    said = slurm.ask(["sbatch", "--parsable", *options, str(path)], environ=environ)
    job = said.strip().splitlines()[-1].partition(";")[0] if said.strip() else ""
    if not job.isdecimal():
        raise ClusterError(f"cannot read this: `sbatch` gave no job id but {shorten(said)}.\nTry: limner cluster status")
    return job


def refuse_double(run: Path) -> None:
    """Raise ClusterError when a job in the queue already trains this run folder."""
    import json

    try:
        job = str(json.loads((run / "job.json").read_text(encoding="utf-8"))["job"])
        over = queue.find_job(job).over
    except (OSError, ValueError, KeyError, TypeError, ClusterError):
        return
    if not over:
        raise ClusterError(f"job {job} already works on {run}.\nTry: limner cluster monitor {job}, or: limner cluster cancel {job}")


def cancel(job: str) -> str:
    """Cancel a job and return what happened, in words.

    Raises: ClusterError when there is no such job or it is not yours.
    """
    found = queue.find_job(job)
    if found.over:
        return f"job {job} had ended already ({found.state.lower()})."
    slurm.ask(["scancel", job])
    words = "it had not started" if found.pending else f"it ran for {found.elapsed} s"
    return f"job {job} is cancelled ({words})."


def requeue(job: str) -> None:
    """Put a running job back into the queue; its ranks are told to save first by Slurm's TERM.

    Raises: ClusterError when Slurm refuses.
    """
    slurm.ask(["scontrol", "requeue", queue.check_id(job)])
