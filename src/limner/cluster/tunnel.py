"""The one SSH command that brings a page on a node's loopback to the user's own computer, through every host between.

One line without quotes, variables or continuation, so that it reads the same in cmd, PowerShell, bash and zsh.
"""

from __future__ import annotations

import getpass
import re
import socket

from limner.cluster import slurm
from limner.cluster.profile import Profile
from limner.errors import ClusterError


def ssh_command(profile: Profile, node: str, remote: str, *, local_port: int = 8888) -> str:
    """Return the command, `ssh -N -L 8888:127.0.0.1:30123 -J me@jump,me@login me@node`.

    Arguments:
        node: the node's name in Slurm.
        remote: what to reach there: `127.0.0.1:PORT`, or the path of a UNIX socket.
    Raises: ClusterError when a part would need quoting.
    """
    user = profile.user or getpass.getuser()
    hops = [host for host in (profile.jump_host, profile.login_host or _this_host()) if host]
    jumps = ",".join(_with_user(host, user) for host in hops)
    parts = ["ssh", *profile.ssh_options, "-N", "-L", f"{local_port}:{remote}"]
    parts += ["-J", jumps] if jumps else []
    parts += [_with_user(node_address(profile, node), user)]
    for part in parts:
        if not re.fullmatch(r"[\w./:=@%+,~\\-]+", part, re.ASCII):
            raise ClusterError(f"the SSH command would need quotes for {part!r}. Change it in cluster.yaml: limner cluster profile")
    return " ".join(parts)


def node_address(profile: Profile, node: str) -> str:
    """Return how SSH reaches a node from the login host: its name (and the site's domain), else Slurm's address for
    it.
    """
    if profile.domain:
        return f"{node}.{profile.domain.lstrip('.')}"
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        pass
    try:
        found = re.search(r"NodeAddr=(\S+)", slurm.ask(["scontrol", "show", "node", node], timeout=10))
    except ClusterError:
        found = None
    return found[1] if found else node


def _with_user(host: str, user: str) -> str:
    return host if "@" in host or not user else f"{user}@{host}"


def _this_host() -> str:
    full = socket.getfqdn()
    return full if re.fullmatch(r"[A-Za-z0-9][\w.-]*", full) and not full.startswith("localhost") else socket.gethostname()
