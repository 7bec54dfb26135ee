"""The verbs of `limner cluster`. Each imports what it needs when it runs, so that every one of them answers at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.errors import ClusterError

app = typer.Typer(
    name="cluster",
    help="A Slurm cluster: free GPUs, notebooks on a node, training jobs that survive the night.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Plain data instead of text.")]
Watch = Annotated[float, typer.Option("--watch", min=0, metavar="SECONDS", help="Show it again every so many seconds.")]
Type = Annotated[str, typer.Option("--type", help="Only GPUs whose type holds this, such as a100.")]
Gpus = Annotated[int, typer.Option("--gpus", min=0, help="GPUs on each node; 0 for none.")]
Hours = Annotated[float, typer.Option("--hours", help="Time limit of the job.")]
Partition = Annotated[str, typer.Option("--partition", help="Instead of the profile's.")]
Qos = Annotated[str, typer.Option("--qos", help="Instead of the profile's.")]
Cpus = Annotated[int, typer.Option("--cpus", min=0, help="CPUs for each task; 0: a fair share of the node.")]
Memory = Annotated[float, typer.Option("--memory", min=0, metavar="GB", help="Memory on each node; 0: a fair share.")]
LocalPort = Annotated[int, typer.Option("--local-port", min=1, max=65535, help="Port on your own computer.")]
Wait = Annotated[float, typer.Option("--wait", min=0, metavar="SECONDS", help="How long to wait until it is ready.")]


@app.command()
def gpus(
    type: Type = "", watch: Watch = 0, json: Json = False, all: bool = typer.Option(False, "--all", help="Every row.")
) -> None:
    """Which GPUs are free: each node's state, GPUs, CPUs and memory; totals; what to do now."""
    from limner.cluster import inventory

    def page() -> str:
        nodes = inventory.read_nodes()
        nodes = inventory.of_type(nodes, type) if type else nodes
        if json:
            words, command = inventory.recommend(nodes, type=type)
            return _dump({
                "nodes": [node.as_dict() for node in nodes if node.gpus],
                "totals": [vars(total) for total in inventory.totals(nodes)],
                "recommendation": {"text": words, "command": command},
            })  # fmt: skip
        from limner.cluster.views import gpus_text

        return gpus_text(nodes, type=type, shown=0 if all else 40)

    _show(page, watch)


@app.command()
def nodes(node: str = typer.Argument("", help="Only this node."), watch: Watch = 0, json: Json = False) -> None:
    """The node guide of this cluster: what each class of nodes is good for, and what it is now."""
    from limner.cluster import inventory

    def page() -> str:
        found = inventory.read_nodes()
        found = [inventory.find_node(found, node)] if node else found
        if json:
            return _dump([entry.as_dict() for entry in found])
        from limner.cluster.views import nodes_text

        return nodes_text(found)

    _show(page, watch)


@app.command()
def status(
    job: str = typer.Argument("", help="Only this job."),
    everybody: bool = typer.Option(False, "--everybody", help="Other people's jobs too."),
    watch: Watch = 0,
    json: Json = False,
) -> None:
    """Your jobs: what runs, for how long; what waits, why, and when Slurm expects it to start."""
    from limner.cluster import queue

    def page() -> str:
        found = [queue.find_job(job)] if job else queue.read_jobs(mine=not everybody)
        if json:
            return _dump([entry.as_dict() for entry in found])
        from limner.cluster.views import jobs_text

        return jobs_text(found)

    _show(page, watch)


@app.command()
def submit(
    recipe: str = typer.Argument(help="A recipe's name or file."),
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[a.b=c]...", help="Changes to the recipe.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder; default runs/RECIPE.")] = None,
    nodes: int = typer.Option(1, "--nodes", min=1, help="Machines."),
    gpus: Gpus = 1,
    type: Type = "",
    hours: Hours = 24,
    cpus: Cpus = 0,
    memory: Memory = 0,
    partition: Partition = "",
    qos: Qos = "",
    node: str = typer.Option("", "--node", help="On this node only."),
    sweep: Annotated[list[str] | None, typer.Option("--sweep", metavar="a.b=1,2,3", help="One run a value.")] = None,
    chain: str = typer.Option(
        "train", "--chain", help="Steps that wait for each other: cache,train,eval or some of them."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the job script and submit nothing."),
    json: Json = False,
) -> None:
    """Train on the cluster: a job that saves when told to, goes back into the queue, and goes on until it is finished."""
    from limner.cluster import jobs, profile

    request = jobs.Request(gpus, nodes, hours, type, cpus, memory, partition, qos, node)
    plans = jobs.plan(
        recipe,
        overrides or [],
        request,
        profile.load(),
        out=out,
        sweep=sweep or [],
        chain=[v.strip() for v in chain.split(",")],
    )
    if dry_run:
        typer.echo("\n".join(f"# {step.path}\n{step.text}" for step in plans), nl=False)
        return
    run = plans[0].run
    if (run / "finished.json").is_file() and any(step.verb == "train" for step in plans):
        typer.echo(
            _dump({"run": str(run), "finished": True, "jobs": []})
            if json
            else f"{run} is finished already; nothing to do."
        )
        return
    ids = jobs.submit(plans)
    if json:
        typer.echo(_dump({"run": str(run), "finished": False, "jobs": ids}))
        return
    for step, job in zip(plans, ids, strict=True):
        count = f" ({len(step.runs)} runs)" if step.runs else ""
        typer.echo(f"job {job}: {step.verb} {run}{count}, script kept as {step.path.name}")
    last = ids[-1] + ("_0" if plans[-1].runs else "")
    typer.echo(f"Watch it: limner cluster monitor {last}\nStop it:  limner cluster cancel {ids[-1]}")


@app.command()
def jupyter(
    where: str = typer.Argument("gpu", help="gpu, cpu, or the name of a node."),
    gpus: Annotated[int | None, typer.Option("--gpus", min=0, help="GPUs; default 1, none for cpu.")] = None,
    type: Type = "",
    hours: Hours = 8,
    cpus: Cpus = 0,
    memory: Memory = 0,
    partition: Partition = "",
    qos: Qos = "",
    root: Path = typer.Option(Path("."), "--root", help="The folder to open."),
    socket: bool = typer.Option(False, "--socket", help="A UNIX socket of mode 0600 on the node instead of a port."),
    local_port: LocalPort = 8888,
    wait: Wait = 300,
    cancel_on_exit: bool = typer.Option(False, "--cancel-on-exit", help="Stay here; Ctrl-C also ends the job."),
    json: Json = False,
) -> None:
    """JupyterLab on a node: submit, wait and explain, then the one SSH command, the URL, and how to stop it."""
    from limner.cluster import inventory, jobs

    node = "" if where in ("gpu", "cpu") else where
    if node:
        found = inventory.find_node(inventory.read_nodes(), node)
        gpus = (1 if found.gpus else 0) if gpus is None else gpus
    num = gpus if gpus is not None else int(where != "cpu")
    request = jobs.Request(num, 1, hours, type, cpus, memory, partition, qos, node)
    _serve("jupyter", request, root, socket, local_port, wait, cancel_on_exit, json)


@app.command()
def tensorboard(
    run: Path = typer.Argument(Path("runs"), help="A run folder, or a folder of runs."),
    hours: Hours = 8,
    partition: Partition = "",
    local_port: LocalPort = 6006,
    wait: Wait = 300,
    cancel_on_exit: bool = typer.Option(False, "--cancel-on-exit", help="Stay here; Ctrl-C also ends the job."),
    json: Json = False,
) -> None:
    """TensorBoard on a node, behind a secret path, reached like a notebook."""
    from limner.cluster import jobs

    request = jobs.Request(gpus=0, hours=hours, partition=partition, cpus=1)
    _serve("tensorboard", request, run, False, local_port, wait, cancel_on_exit, json)


@app.command()
def connect(
    job: Annotated[str | None, typer.Argument(help="Which notebook; may be left out when there is one.")] = None,
    local_port: Annotated[int, typer.Option("--local-port", min=0, max=65535, help="Port on your own computer.")] = 0,
    wait: Wait = 60,
    json: Json = False,
) -> None:
    """How to reach a notebook or TensorBoard that runs already: the SSH command and the URL again."""
    from limner.cluster import jupyter as servers

    job = servers.choose(job)
    server = servers.wait(job, seconds=wait, tell=lambda words: typer.echo(words, err=True))
    _tell(server, local_port or (6006 if server.kind == "tensorboard" else 8888), json)


@app.command()
def logs(
    job: str = typer.Argument(help="A job id, 123 or 123_4."),
    follow: bool = typer.Option(False, "-f", "--follow", help="Go on until the job ends."),
    lines: int = typer.Option(40, "-n", "--lines", min=0, help="How many of the last lines."),
) -> None:
    """The end of a job's log."""
    from limner.cluster import following

    following.follow(job, lines=lines, follow=follow, write=lambda text: typer.echo(text, nl=False))


@app.command()
def cancel(job: list[str] = typer.Argument(help="One or more job ids.")) -> None:
    """Cancel jobs. What a run has saved is kept; submit it again to go on."""
    from limner.cluster import jobs

    for entry in job:
        typer.echo(jobs.cancel(entry))


@app.command()
def monitor(
    job: str = typer.Argument(help="A training job's id, or a run folder."), watch: Watch = 0, json: Json = False
) -> None:
    """A run's loss, images a second, estimated end, and the use of its GPUs and host."""
    from limner.cluster import monitor as reading
    from limner.cluster import queue, records, views

    by_id = job.partition("_")[0].isdecimal() and not Path(job).is_dir()
    if not by_id and not Path(job).is_dir():
        queue.check_id(job)
    run = records.run_of(job) if by_id else Path(job)

    def page() -> str:
        try:
            state = queue.find_job(job).state.lower() if by_id else "not asked for"
        except ClusterError:
            state = "no longer in Slurm's queue"
        progress = reading.progress(run)
        return _dump({**progress.as_dict(), "job": state}) if json else views.progress_text(progress, state)

    _show(page, watch)


@app.command()
def profile(
    init: bool = typer.Option(False, "--init", help="Write what was found to a file, to be completed by hand."),
    out: Path = typer.Option(Path("cluster.yaml"), "--out", help="That file."),
    force: bool = typer.Option(False, "--force", help="Write over it when it is there."),
    json: Json = False,
) -> None:
    """This cluster's profile: from cluster.yaml where there is one, else found from the live cluster."""
    from limner.cluster import profile as profiles

    path = None if init else profiles.find()
    found = profiles.load() if path else profiles.discover()
    if init:
        if out.exists() and not force:
            raise ClusterError(
                f"{out} is there already. Edit it, or write over it: limner cluster profile --init --force"
            )
        out.write_text(profiles.to_yaml(found), encoding="utf-8")
        typer.echo(f"{out} is written. Complete login_host, jump_host and domain by hand; Slurm does not know them.")
    elif json:
        typer.echo(_dump(found.model_dump(mode="json")))
    else:
        typer.echo(
            f"# from {path or 'the live cluster; keep it: limner cluster profile --init'}\n{profiles.to_yaml(found)}",
            nl=False,
        )


def _serve(
    kind: str, request: Any, root: Path, socket: bool, local_port: int, wait: float, cancel_on_exit: bool, json: bool
) -> None:
    """Submit a server, wait for it, tell how to reach it; on Ctrl-C end cleanly, with the job if so asked."""
    from limner.cluster import following, jobs, profile
    from limner.cluster import jupyter as servers

    site = profile.load()
    if site.portal:
        typer.echo(f"This site has its own way to notebooks too: {site.portal}", err=True)
    job = servers.start(kind, request, site, root=root, use_socket=socket)
    typer.echo(f"job {job} is submitted.", err=True)
    try:
        server = servers.wait(job, seconds=wait, tell=lambda words: typer.echo(words, err=True))
        _tell(server, local_port, json)
        if cancel_on_exit:
            typer.echo("Ctrl-C ends the job.", err=True)
            following.until_over(job)
    except KeyboardInterrupt:
        if cancel_on_exit:
            typer.echo("\n" + jobs.cancel(job), err=True)
        else:
            again = f"Go on: limner cluster connect {job}\nStop it: limner cluster cancel {job}"
            typer.echo(f"\njob {job} stays in the queue.\n{again}", err=True)
        raise typer.Exit(130) from None
    except ClusterError:
        if cancel_on_exit:
            typer.echo(jobs.cancel(job), err=True)
        raise


def _tell(server: Any, local_port: int, json: bool) -> None:
    from limner.cluster import jupyter as servers
    from limner.cluster import profile

    how = servers.how_to(server, profile.load(), local_port=local_port)
    if json:
        typer.echo(_dump(how))
        return
    typer.echo(f"{server.kind} is ready on {server.node} (job {server.job}).")
    typer.echo(f"1. On your own computer, and leave it open:\n     {how['ssh']}")
    typer.echo(f"2. In your browser:\n     {how['url']}")
    typer.echo(f"To stop it:\n     {how['stop']}")


def _show(page: Callable[[], str], watch: float) -> None:
    """Print a page, once or again and again until Ctrl-C."""
    text = page()
    while watch:
        typer.echo("\033[H\033[2J" + text)
        typer.echo(f"\n(again every {watch:g} s; Ctrl-C ends it)")
        try:
            time.sleep(watch)
            text = page()
        except KeyboardInterrupt:
            return
    typer.echo(text)


def _dump(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, default=str)
