"""Asks Slurm's own commands, with a time limit, and turns their failures into one message with the next command to
try.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from limner.errors import ClusterError

TIMEOUT_SECONDS = 30.0

_ADVICE = (  # what Slurm says -> what it means and what to do; the first that fits is told
    (
        "invalid job id",
        "Slurm knows no such job (it forgets them some minutes after their end).\nTry: limner cluster status",
    ),
    ("invalid node name", "this cluster has no such node.\nTry: limner cluster nodes"),
    ("invalid partition", "this cluster has no such partition.\nTry: limner cluster profile"),
    ("invalid qos", "this QOS does not exist or is not yours.\nTry: limner cluster profile"),
    ("invalid account", "this account does not exist or is not yours.\nTry: limner cluster profile"),
    (
        "node configuration is not available",
        "no node of this partition has that many GPUs, CPUs or memory, or that type of GPU.\nTry: limner cluster nodes",
    ),
    ("temporarily unable to accept job", "the queue is full.\nTry again later, or make room: limner cluster status"),
    ("qosmaxsubmitjob", "you have as many jobs in the queue as you may.\nTry: limner cluster status"),
    (
        "accounting/qos policy",
        "this asks for more than your account or QOS may have at once.\nTry: limner cluster profile",
    ),
    (
        "time limit",
        "this asks for more time than the partition gives. Ask for fewer --hours.\nTry: limner cluster profile",
    ),
    ("access/permission denied", "this job or node is not yours.\nTry: limner cluster status"),
    (
        "unable to contact slurm controller",
        "Slurm's controller does not answer. This is the cluster's fault, not yours.\nTry again in some minutes: sinfo",
    ),
    (
        "connection refused",
        "Slurm's controller does not answer. This is the cluster's fault, not yours.\nTry again in some minutes: sinfo",
    ),
    (
        "configuration source",
        "Slurm is installed here but belongs to no cluster.\nRun this on the login node of your cluster.",
    ),
)


class SlurmError(ClusterError):
    """A Slurm command failed; `stderr` holds its own words."""

    def __init__(self, message: str, stderr: str = "") -> None:
        super().__init__(message)
        self.stderr = stderr


def ask(args: Sequence[str], *, timeout: float = TIMEOUT_SECONDS, environ: Mapping[str, str] | None = None) -> str:
    """Return what a Slurm command prints.

    Raises: ClusterError when the command is not there, is too slow, or fails.
    """
    env = {**(os.environ if environ is None else environ), "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(list(args), capture_output=True, timeout=timeout, env=env, stdin=subprocess.DEVNULL, check=False)
    except FileNotFoundError as error:
        raise ClusterError(
            f"there is no Slurm on this machine: the command `{args[0]}` was not found.\n"
            "Run this on the login node of your cluster; without a cluster, train here: limner train RECIPE"
        ) from error
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode("utf-8", "replace")
        if "temporarily unable to accept job" in said.lower():
            raise _failure(args[0], said) from error
        words = f" ({said.strip().splitlines()[-1][:150]})" if said.strip() else ""
        raise ClusterError(
            f"`{args[0]}` gave no answer within {timeout:.0f} s{words}: Slurm is busy, away or not set up here.\n"
            f"Try again in some minutes: {args[0]}"
        ) from error
    except OSError as error:
        raise ClusterError(f"`{args[0]}` cannot be run: {error.strerror or error}.") from error
    stdout, stderr = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    if done.returncode != 0:
        raise _failure(args[0], stderr or stdout)
    return stdout


def _failure(command: str, said: str) -> SlurmError:
    lines = [line.strip()[:200] for line in said.splitlines() if line.strip()][:3]
    lowered = said.lower()
    advice = next((text for sign, text in _ADVICE if sign in lowered), "")
    words = " / ".join(lines) or "nothing"
    return SlurmError(f"`{command}` said: {words}" + (f"\nThat is: {advice}" if advice else ""), said)
