"""What the verbs show: nodes, jobs and progress as text for the terminal. No questions to Slurm here."""

from __future__ import annotations

from collections.abc import Sequence

from limner.cluster.inventory import classes, recommend, totals
from limner.cluster.monitor import Progress
from limner.cluster.nodelist import compress
from limner.cluster.nodes import Node
from limner.cluster.queue import Job, explain
from limner.cluster.tables import BOLD, duration, gigabytes, style, table


def gpus_text(nodes: Sequence[Node], *, type: str, shown: int) -> str:
    """Return the page of `gpus`: a row a node and GPU type, those with most free GPUs first, totals, and what to do
    now.

    Arguments:
        shown: at most so many rows; 0 for all.
    """
    rows = []
    ranked = sorted(nodes, key=lambda node: (-node.gpus_free, not node.open, node.name))
    for node in ranked:
        for gpu in node.gpus:
            free = gpu.free if node.open else 0
            busy = f"{gpu.used}" + (f"+{gpu.shared} shared" if gpu.shared else "")
            memory = f"{gigabytes(node.memory - node.memory_used)} of {gigabytes(node.memory)}"
            cpus = f"{node.cpus_free} of {node.cpus}"
            rows.append([node.name, node.state_text, gpu.type, free, busy, gpu.total, cpus, memory, ",".join(node.partitions)])
    lines = []
    if rows:
        head = ["node", "state", "GPU", "free", "used", "total", "free CPUs", "free memory", "partitions"]
        lines.append(table(head, rows[: shown or None], right=(3, 4, 5), colour=1))
        if shown and len(rows) > shown:
            lines.append(f"... and {len(rows) - shown} more (all of them: --all)")
        lines.append("")
        sums = [[t.type, t.free, t.used, t.away, t.total] for t in totals(nodes)]
        lines.append(table(["GPU", "free", "used", "out of service", "total"], sums, right=(1, 2, 3, 4)))
    words, command = recommend(nodes, type=type)
    return "\n".join([*lines, "" if rows else "No GPUs here.", words, f"  {style(command, BOLD)}"])


def nodes_text(nodes: Sequence[Node]) -> str:
    """Return the page of `nodes`: the classes of nodes, what each is good for, and what it is now."""
    rows, notes = [], []
    for number, kind in enumerate(classes(nodes), start=1):
        gpus = f"{kind.gpus} x {kind.gpu_type}" if kind.gpus else "-"
        names = compress(sorted(node.name for node in kind.nodes))
        names = names if len(names) <= 40 else names[:37] + "..."
        num_away = len([node for node in kind.nodes if not node.works])
        now = f"{kind.open} of {len(kind.nodes)} open" + (f", {kind.gpus_free} GPUs free" if kind.gpus else "")
        now += f", {num_away} out of service" if num_away else ""
        rows.append([number, len(kind.nodes), gpus, kind.cpus, gigabytes(kind.memory), now, names])
        notes.append(f"  {number}. {kind.good_for}.")
    head = ["", "nodes", "GPUs each", "CPUs", "memory", "now", "names"]
    lines = [table(head, rows, right=(0, 1, 3, 4)), "", "Good for:", *notes]
    away = [node for node in nodes if not node.works]
    if away:
        listed = [[node.name, node.state_text, node.reason or "-"] for node in away[:20]]
        lines += ["", table(["out of service", "state", "reason given"], listed, colour=1)]
        lines += [f"... and {len(away) - 20} more"] if len(away) > 20 else []
    return "\n".join(lines)


def jobs_text(jobs: Sequence[Job]) -> str:
    """Return the page of `status`: a row a job, and beside it why it waits or how long it may still run."""
    if not jobs:
        return "No jobs of yours.\nTry: limner cluster submit RECIPE, or: limner cluster jupyter"
    rows = []
    for job in jobs:
        if job.pending:
            note = explain(job.reason) + (f"; starts about {job.start.replace('T', ' ')}" if job.start else "")
        elif job.running:
            left = f", {duration(job.limit - job.elapsed)} left" if job.limit else ""
            note = f"for {duration(job.elapsed)}{left}"
        else:
            note = f"after {duration(job.elapsed)}"
        rows.append([job.id, job.name, job.state.lower(), job.num_nodes, job.gpus or "-", job.nodes or "-", note])
    return table(["job", "name", "state", "nodes", "GPUs", "on", ""], rows, right=(3, 4), colour=2)


def progress_text(progress: Progress, state: str) -> str:
    """Return the page of `monitor`: where the run is, how fast, when it ends, and how busy its machine is."""
    share = progress.budget or 0.0
    bar = "#" * round(30 * min(1.0, share)) + "." * (30 - round(30 * min(1.0, share)))
    lines = [f"{progress.run}", f"job       {state}" + (", the run is finished" if progress.finished else "")]
    if progress.budget is not None:
        lines.append(f"budget    [{bar}] {100 * share:.1f} %")
    if progress.step:
        lines.append(f"step      {progress.step:,}   images {progress.images:,}")
    if progress.loss is not None:
        lines.append(f"loss      {progress.loss:.4f}   (mean of the last 20)")
    if progress.images_per_second is not None:
        lines.append(f"speed     {progress.images_per_second:,.1f} images/s")
    if progress.left_seconds is not None and not progress.finished:
        lines.append(f"ends in   {duration(progress.left_seconds)}")
    for key, value in sorted((progress.load or {}).items()):
        lines.append(f"{key:<24} {value:,.1f}")
    if len(lines) == 2:
        lines.append("no step is logged yet")
    return "\n".join(lines)
