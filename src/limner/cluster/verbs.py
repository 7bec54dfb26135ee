"""What each verb of `limner cluster` does. Each imports what it needs when it runs; `cli.py` declares their options."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner.errors import ClusterError

if TYPE_CHECKING:
    from limner.cluster.jobs import Request
    from limner.cluster.jupyter import Server


def gpus(given: Namespace) -> int:
    """Which GPUs are free: each node's state, GPUs, CPUs and memory; totals; what to do now."""
    from limner.cluster import inventory

    def page() -> str:
        nodes = inventory.read_nodes()
        nodes = inventory.of_type(nodes, given.type) if given.type else nodes
        if given.json:
            words, command = inventory.recommend(nodes, type=given.type)
            return dump(
                {
                    "nodes": [node.as_dict() for node in nodes if node.gpus],
                    "totals": [vars(total) for total in inventory.totals(nodes)],
                    "recommendation": {"text": words, "command": command},
                }
            )
        from limner.cluster.views import gpus_text

        return gpus_text(nodes, type=given.type, shown=0 if given.all else 40)

    return show(page, given.watch)


def nodes(given: Namespace) -> int:
    """The node guide of this cluster: what each class of nodes is good for, and what it is now."""
    from limner.cluster import inventory

    def page() -> str:
        found = inventory.read_nodes()
        found = [inventory.find_node(found, given.node)] if given.node else found
        if given.json:
            return dump([entry.as_dict() for entry in found])
        from limner.cluster.views import nodes_text

        return nodes_text(found)

    return show(page, given.watch)


def status(given: Namespace) -> int:
    """Your jobs: what runs, for how long; what waits, why, and when Slurm expects it to start."""
    from limner.cluster import queue

    def page() -> str:
        found = [queue.find_job(given.job)] if given.job else queue.read_jobs(mine=not given.everybody)
        if given.json:
            return dump([entry.as_dict() for entry in found])
        from limner.cluster.views import jobs_text

        return jobs_text(found)

    return show(page, given.watch)


def submit(given: Namespace) -> int:
    """Train on the cluster: a job that saves when told to, requeues, and goes on until it is finished."""
    from limner.cluster import jobs, profile

    chain = [verb.strip() for verb in given.chain.split(",")]
    plans = jobs.plan(given.recipe, given.overrides, _request(given), profile.load(), out=given.out, sweep=given.sweep, chain=chain)
    if given.dry_run:
        say("\n".join(f"# {step.path}\n{step.text}" for step in plans))
        return 0
    run = plans[0].run
    if (run / "finished.json").is_file() and "train" in chain:
        told = {"run": str(run), "finished": True, "jobs": []}
        say(dump(told) if given.json else f"{run} is finished already; nothing to do.")
        return 0
    ids = jobs.submit(plans)
    if given.json:
        say(dump({"run": str(run), "finished": False, "jobs": ids}))
        return 0
    for step, job in zip(plans, ids, strict=True):
        count = f" ({len(step.runs)} runs)" if step.runs else ""
        say(f"job {job}: {step.verb} {run}{count}, script kept as {step.path.name}")
    last = ids[-1] + ("_0" if plans[-1].runs else "")
    say(f"Watch it: limner cluster monitor {last}\nStop it:  limner cluster cancel {ids[-1]}")
    return 0


def jupyter(given: Namespace) -> int:
    """JupyterLab on a node: submit, wait and explain, then the one SSH command, the URL, and how to stop it."""
    from limner.cluster import inventory

    given.node = "" if given.where in ("gpu", "cpu") else given.where
    if given.gpus is None:
        given.gpus = int(given.where != "cpu")
        if given.node:
            given.gpus = int(bool(inventory.find_node(inventory.read_nodes(), given.node).gpus))
    return _serve("jupyter", _request(given), given)


def tensorboard(given: Namespace) -> int:
    """TensorBoard on a node, behind a secret path, reached like a notebook."""
    from limner.cluster import jobs

    given.root, given.socket = given.run, False
    return _serve("tensorboard", jobs.Request(gpus=0, hours=given.hours, partition=given.partition, cpus=1), given)


def connect(given: Namespace) -> int:
    """How to reach a notebook or TensorBoard that runs already: the SSH command and the URL again."""
    from limner.cluster import jupyter as servers

    job = servers.choose(given.job)
    server = servers.wait(job, seconds=given.wait, tell=note)
    _tell(server, given)
    return 0


def logs(given: Namespace) -> int:
    """The end of a job's log; with -f what comes after, until the job ends."""
    from limner.cluster import following

    following.follow(given.job, lines=given.lines, follow=given.follow, write=_write)
    return 0


def cancel(given: Namespace) -> int:
    """Cancel jobs. What a run has saved is kept; submit it again to go on."""
    from limner.cluster import jobs

    for job in given.job:
        say(jobs.cancel(job))
    return 0


def monitor(given: Namespace) -> int:
    """A run's loss, images a second, estimated end, and the use of its GPUs and host."""
    from limner.cluster import monitor as reading
    from limner.cluster import queue, records, views

    is_run = Path(given.job).is_dir()
    run = Path(given.job) if is_run else records.run_of(given.job)

    def page() -> str:
        try:
            state = "not asked for" if is_run else queue.find_job(given.job).state.lower()
        except ClusterError:
            state = "no longer in Slurm's queue"
        progress = reading.progress(run)
        if given.json:
            return dump({**progress.as_dict(), "job": state})
        return views.progress_text(progress, state)

    return show(page, given.watch)


def profile(given: Namespace) -> int:
    """This cluster's profile: from cluster.yaml where there is one, else found from the live cluster."""
    from limner.cluster import profile as profiles

    path = None if given.init else profiles.find()
    found = profiles.load() if path else profiles.discover()
    if given.init:
        if given.out.exists() and not given.force:
            raise ClusterError(f"{given.out} is there already. Edit it, or write over it: limner cluster profile --init --force")
        given.out.write_text(profiles.to_yaml(found), encoding="utf-8")
        say(f"{given.out} is written. Complete login_host, jump_host and domain by hand; Slurm does not know them.")
    elif given.json:
        say(dump(found.model_dump(mode="json")))
    else:
        source = path or "the live cluster; keep it: limner cluster profile --init"
        say(f"# from {source}\n{profiles.to_yaml(found)}".rstrip())
    return 0


def _request(given: Namespace) -> Request:
    from limner.cluster.jobs import Request

    nodes = getattr(given, "nodes", 1)
    return Request(given.gpus, nodes, given.hours, given.type, given.cpus, given.memory, given.partition, given.qos, given.node)


def _serve(kind: str, request: Request, given: Namespace) -> int:
    """Submit a server, wait for it, tell how to reach it; on Ctrl-C end cleanly, with the job if so asked."""
    from limner.cluster import following, jobs, profile
    from limner.cluster import jupyter as servers

    site = profile.load()
    if site.portal:
        note(f"This site has its own way to notebooks too: {site.portal}")
    job = servers.start(kind, request, site, root=given.root, use_socket=given.socket)
    note(f"job {job} is submitted.")
    try:
        server = servers.wait(job, seconds=given.wait, tell=note)
        _tell(server, given)
        if given.cancel_on_exit:
            note("Ctrl-C ends the job.")
            following.until_over(job)
        return 0
    except KeyboardInterrupt:
        if given.cancel_on_exit:
            note("\n" + jobs.cancel(job))
        else:
            again = f"Go on: limner cluster connect {job}\nStop it: limner cluster cancel {job}"
            note(f"\njob {job} stays in the queue.\n{again}")
        return 130
    except ClusterError:
        if given.cancel_on_exit:
            note(jobs.cancel(job))
        raise


def _tell(server: Server, given: Namespace) -> None:
    from limner.cluster import jupyter as servers
    from limner.cluster import profile

    port = given.local_port or (6006 if server.kind == "tensorboard" else 8888)
    how = servers.how_to(server, profile.load(), local_port=port)
    if given.json:
        say(dump(how))
        return
    say(f"{server.kind} is ready on {server.node} (job {server.job}).")
    say(f"1. On your own computer, and leave it open:\n     {how['ssh']}")
    say(f"2. In your browser:\n     {how['url']}")
    say(f"To stop it:\n     {how['stop']}")


def show(page: Callable[[], str], watch: float) -> int:
    """Print a page, once or every `watch` seconds until Ctrl-C; return the exit code."""
    text = page()
    try:
        while watch:
            say(("\033[H\033[2J" if sys.stdout.isatty() else "") + text)
            say(f"\n(again every {watch:g} s; Ctrl-C ends it)")
            time.sleep(watch)
            text = page()
    except KeyboardInterrupt:
        return 0
    say(text)
    return 0


def say(text: str) -> None:
    """Write lines to the terminal at once."""
    _write(text + "\n")


def note(text: str) -> None:
    """Write lines about what is going on, beside the answer: to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def dump(value: Any) -> str:
    """Return a value as JSON text."""
    return json.dumps(value, indent=2, default=str)
