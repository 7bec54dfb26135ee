"""The cluster's profile, `cluster.yaml`: what Slurm cannot tell by itself, such as the login host and the way through
to it.

Found first in the live cluster, then read from a file; no site is built in. The file is looked for at
$LIMNER_CLUSTER, at `./cluster.yaml`, and at `limner/cluster.yaml` in the user's configuration folder.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from limner.cluster import slurm
from limner.cluster.readers import key_values
from limner.config import Config, read_yaml, validate, write_yaml
from limner.errors import ClusterError, ConfigError


def _host(value: str) -> str:
    if value and not re.fullmatch(r"([A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9][\w.-]*(:\d{1,5})?", value, re.ASCII):
        raise ValueError(f"{value!r} is no host; write host, user@host or user@host:port")
    return value


def _word(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z0-9_][\w.,:@+-]*", value, re.ASCII):
        raise ValueError(f"{value!r} is no name; letters, digits and _ . , : @ + - are allowed")
    return value


def _line(value: str) -> str:
    if re.search(r"[\x00-\x1f]", value):
        raise ValueError(f"{value!r} has to be one line")
    return value


def _option(value: str) -> str:
    if not re.fullmatch(r"[\w./:=@%+,~\\-]+", value, re.ASCII):
        raise ValueError(f"{value!r} has blanks or signs that shells read differently")
    return value


Host = Annotated[str, AfterValidator(_host)]
Word = Annotated[str, AfterValidator(_word)]
Line = Annotated[str, AfterValidator(_line)]
Option = Annotated[str, AfterValidator(_option)]


class Profile(Config):
    """What limner has to know of a site. Everything may be left out; "" means Slurm's own default."""

    name: Line = ""
    login_host: Host = ""  # where users log in, seen from outside
    jump_host: Host = ""  # in front of the login host, if any
    domain: Word = ""  # put after node names, where they need it
    user: Word = ""  # the user's name on the cluster, if it differs from the one that submits
    ssh_options: tuple[Option, ...] = ()  # put into the printed command, such as -F, my_config
    portal: Line = ""  # the site's JupyterHub or Open OnDemand, pointed at where there is one
    account: Word = ""
    gpu_partition: Word = ""
    cpu_partition: Word = ""
    gpu_qos: Word = ""
    cpu_qos: Word = ""
    cpus_per_gpu: int = 0  # 0: a fair share of the node
    memory_per_gpu_gb: int = 0  # 0: a fair share of the node
    modules: tuple[Option, ...] = ()  # loaded before anything else
    activate: Line = ""  # a shell line that makes `python` the right one, such as: source ~/venv/bin/activate
    command: Line = ""  # put before python, such as: apptainer exec --nv limner.sif
    environment: Mapping[Word, Line] = {}
    sbatch: tuple[Line, ...] = ()  # further #SBATCH options, such as --constraint=a100


def places() -> list[Path]:
    """Return where a profile is looked for, first to last."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    named = [Path(os.environ["LIMNER_CLUSTER"])] if os.environ.get("LIMNER_CLUSTER") else []
    return [*named, Path("cluster.yaml"), config / "limner" / "cluster.yaml"]


def find() -> Path | None:
    """Return the file that holds the profile, or None.

    Raises: ClusterError when $LIMNER_CLUSTER names no file.
    """
    named = os.environ.get("LIMNER_CLUSTER")
    if named and not Path(named).is_file():
        raise ClusterError(f"LIMNER_CLUSTER names {named}, which is no file.\nTry: limner cluster profile --init")
    return next((path for path in places() if path.is_file()), None)


def load() -> Profile:
    """Return the profile from its file, or an empty one (Slurm's defaults) when there is no file.

    Raises: ClusterError when the file is not a profile.
    """
    path = find()
    if path is None:
        return Profile()
    try:
        return validate(Profile, read_yaml(path), where=str(path))
    except ConfigError as error:
        raise ClusterError(str(error)) from error


def discover() -> Profile:
    """Return what the live cluster and this session tell: name, login host, partitions, account and QOS, modules,
    environment.

    Raises: ClusterError when there is no Slurm here.
    """
    config = slurm.ask(["scontrol", "show", "config"])
    name = re.search(r"(?m)^ClusterName\s*=\s*(\S+)", config)
    partitions = [key_values(line) for line in slurm.ask(["scontrol", "show", "partition", "-o"]).splitlines() if line.strip()]
    with_gpus = {part for node in _nodes() for part in (node.partitions if node.gpus else ())}
    gpu = _best([p for p in partitions if p.get("PartitionName") in with_gpus])
    cpu = _best([p for p in partitions if p.get("PartitionName") not in with_gpus]) or _best(partitions)
    account, qos = _association()
    login, domain = _login()
    return Profile(
        name=name[1] if name else "",
        login_host=login,
        domain=domain,
        account=account,
        gpu_partition=gpu,
        cpu_partition=cpu,
        gpu_qos=qos,
        cpu_qos=qos,
        modules=tuple(_modules()),
        activate=_activate(),
    )


def _nodes() -> list:
    from limner.cluster.inventory import read_nodes

    return read_nodes()


def _best(partitions: list[dict[str, str]]) -> str:
    """The default partition if it is among them, else the first that is up and open to all."""
    usable = [p for p in partitions if p.get("State", "UP") == "UP" and p.get("RootOnly", "NO") != "YES"]
    chosen = [p for p in usable if p.get("Default") == "YES"] or usable
    return chosen[0]["PartitionName"] if chosen else ""


def _association() -> tuple[str, str]:
    """The user's default account and QOS, where the site keeps accounts."""
    import getpass

    try:
        text = slurm.ask(
            [
                "sacctmgr",
                "-n",
                "-P",
                "show",
                "user",
                getpass.getuser(),
                "withassoc",
                "format=DefaultAccount,DefaultQOS",
            ],
            timeout=10,
        )
    except (ClusterError, OSError, KeyError):
        return "", ""
    cells = (text.splitlines() or [""])[0].split("|")
    words = [cell if re.fullmatch(r"[\w.-]+", cell) else "" for cell in [*cells, "", ""]]
    return words[0], words[1]


def _login() -> tuple[str, str]:
    full = socket.getfqdn()
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", full) or full.startswith("localhost"):
        return socket.gethostname(), ""
    return full, ""


def _modules() -> list[str]:
    return [name for name in os.environ.get("LOADEDMODULES", "").split(":") if re.fullmatch(r"[\w.,:@+/-]+", name)]


def _activate() -> str:
    """A line that brings this session's Python environment back, or "" when the interpreter's path is enough."""
    if os.environ.get("CONDA_PREFIX") and os.environ.get("CONDA_DEFAULT_ENV"):
        return f"conda activate {os.environ['CONDA_PREFIX']}"
    return ""


def to_yaml(profile: Profile) -> str:
    """Return the profile as the text of a `cluster.yaml`, headed by where it belongs."""
    head = (
        "# The profile of this cluster for `limner cluster`. Everything may be left out.\n"
        "# Keep it as ./cluster.yaml or in your configuration folder; docs/cluster.md explains each key.\n"
    )
    return head + write_yaml(profile.model_dump(mode="json"))


def interpreter(profile: Profile) -> list[str]:
    """Return the words that start Python on a node: this very interpreter, or the site's own where the profile says
    so.
    """
    import shlex

    if profile.command:
        return [*shlex.split(profile.command), "python"]
    return ["python"] if profile.activate else [sys.executable]
