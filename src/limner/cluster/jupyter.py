"""A notebook or TensorBoard on a node: submits it, waits and explains, and tells how to reach it and how to stop it.

What runs on the node is `node_server.py`; how to get there is `tunnel.py`.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from limner.cluster import jobs, queue, records, script, tunnel
from limner.cluster.profile import Profile
from limner.cluster.tables import duration
from limner.errors import ClusterError

KINDS = ("jupyter", "tensorboard")
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Server:
    """A server that is ready. `token` is the secret: shown to its owner on the terminal, never written elsewhere."""

    job: str
    kind: str
    node: str
    remote: str
    token: str

    def url(self, local_port: int) -> str:
        """Return the address for the browser on the user's own computer, secret included."""
        if self.kind == "tensorboard":
            return f"http://localhost:{local_port}/{self.token}/"
        return f"http://localhost:{local_port}/lab?token={self.token}"


def start(kind: str, request: jobs.Request, profile: Profile, *, root: Path, use_socket: bool = False) -> str:
    """Submit a server job and return its id.

    Raises: ClusterError when the program is not installed, the folder is not there, or Slurm refuses.
    """
    package = {"jupyter": "jupyterlab", "tensorboard": "tensorboard"}[kind]
    if not (profile.activate or profile.command) and importlib.util.find_spec(package) is None:
        raise ClusterError(
            f"{package} is not installed in this Python environment, which the job would use.\n"
            f"Try: pip install {package}, or name another environment: limner cluster profile --init"
        )
    if not root.is_dir():
        raise ClusterError(f"{root}: there is no such folder to serve.")
    words = ["limner.cluster.node_server", kind, "--root", str(root.resolve()), *(["--socket"] if use_socket else [])]
    log = str(records.state_folder("logs") / f"{kind}-%j.log")
    text = script.simple_script(
        jobs.resources(request, profile), jobs.surroundings(profile), name=f"limner-{kind}", log=log, arguments=words
    )
    path = records.state_folder("logs") / f"{kind}.sbatch"
    records.write_private(path, text)
    job = jobs.sbatch(path)
    records.remember(records.Record(job, kind, log, str(root.resolve())))
    return job


def ready(job: str) -> Server | None:
    """Return the server of a job when it is ready, else None.

    Raises: ClusterError when it could not be started on its node.
    """
    folder = records.state_folder("servers", job)
    if (folder / "failed").is_file():
        trouble = (folder / "failed").read_text(encoding="utf-8")
        raise ClusterError(f"job {job} did not start its server: {trouble}.\nTry: limner cluster logs {job}")
    try:
        told = json.loads((folder / "ready.json").read_text(encoding="utf-8"))
        return Server(job, told["kind"], told["node"], told["remote"], (folder / "token").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def wait(job: str, *, seconds: float, tell: Callable[[str], None]) -> Server:
    """Return the job's server once it is ready; meanwhile tell, whenever it changes, what it waits for and Slurm's
    estimate.

    Raises: ClusterError when the job ends, can never start, or `seconds` pass; the job itself is left alone.
    """
    deadline = time.monotonic() + seconds
    told = ""
    while True:
        found = queue.find_job(job)
        server = ready(job) if found.running else None
        if server is not None:
            return server
        if found.over:
            ready(job)
            raise ClusterError(
                f"job {job} ended before its server was ready ({found.state.lower()}).\nTry: limner cluster logs {job}"
            )
        words = describe(found)
        if found.never_starts:
            raise ClusterError(
                f"job {job} {words}.\n"
                f"Try: limner cluster cancel {job}, then ask for less (limner cluster nodes shows what there is)"
            )
        if words != told:
            tell(f"job {job} {words}.")
            told = words
        if time.monotonic() > deadline:
            raise ClusterError(
                f"job {job} is not ready after {duration(seconds)}: it {words}. It stays in the queue.\n"
                f"When it is ready: limner cluster connect {job}\nOr give it up: limner cluster cancel {job}"
            )
        time.sleep(min(POLL_SECONDS, max(0.1, deadline - time.monotonic())))


def describe(job: queue.Job) -> str:
    """Return where a job stands, in words: why it waits and when Slurm expects it to start, or where it runs."""
    if job.pending:
        start = job.start or queue.estimate(job.id)
        return queue.explain(job.reason) + (f"; Slurm expects it to start at {start.replace('T', ' ')}" if start else "")
    if job.running:
        return f"runs on {job.nodes}; its server starts"
    return f"is {job.state.lower()}"


def alive() -> list[tuple[records.Record, queue.Job]]:
    """Return your server jobs that wait or run, newest first."""
    current = {job.id: job for job in queue.read_jobs()}
    return [(record, current[record.job]) for record in records.recall_all(KINDS) if record.job in current]


def choose(job: str | None) -> str:
    """Return the job meant: the one given, or the only one there is.

    Raises: ClusterError when there is none, or several to choose from, or the one given is no server.
    """
    if job is not None:
        record = records.recall(job)
        if record is not None and record.kind in KINDS:
            return job
        queue.find_job(job)
        raise ClusterError(f"job {job} serves no page: it is neither a notebook nor TensorBoard.\nTry: limner cluster status")
    found = alive()
    if not found:
        raise ClusterError("you have no notebook and no TensorBoard on this cluster.\nTry: limner cluster jupyter")
    if len(found) > 1:
        lines = [f"  limner cluster connect {record.job}   ({record.kind}, {entry.state.lower()})" for record, entry in found[:6]]
        raise ClusterError("\n".join(["you have several; say which:", *lines]))
    return found[0][0].job


def how_to(server: Server, profile: Profile, *, local_port: int) -> dict[str, str]:
    """Return how to reach and stop a server: the SSH command, the URL and the command that ends it."""
    return {
        "job": server.job,
        "kind": server.kind,
        "node": server.node,
        "ssh": tunnel.ssh_command(profile, server.node, server.remote, local_port=local_port),
        "url": server.url(local_port),
        "stop": f"limner cluster cancel {server.job}",
        "portal": profile.portal,
    }
