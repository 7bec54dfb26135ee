"""Runs on the node, inside the job: starts JupyterLab or TensorBoard on loopback (or a 0600 UNIX socket), behind a
secret.

The port is chosen here by binding it; the secret is made here and lives in a file of mode 0600 in the user's own
state folder. It never stands in an argument, a job comment or a log. A server that answers without the secret is
stopped, not advertised: a user's own configuration might have switched tokens off.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limner.cluster.records import state_folder, write_private

START_SECONDS = 120
Server = subprocess.Popen[bytes]


def free_port() -> int:
    """Return a port of loopback that nobody has, chosen by binding it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_jupyter(folder: Path, root: str, sock: str) -> tuple[Server, str]:
    """Start JupyterLab; return the process and where it listens, `127.0.0.1:PORT` or the socket's path."""
    remote = sock or f"127.0.0.1:{free_port()}"
    where = [f"--ServerApp.sock={sock}", "--ServerApp.sock_mode=0600"]
    if not sock:
        where = [
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={remote.rpartition(':')[2]}",
            "--ServerApp.port_retries=0",
        ]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={root}", *where]
    command += ["--allow-root"] if os.geteuid() == 0 else []
    environ = {key: value for key, value in os.environ.items() if key != "JUPYTER_TOKEN"}
    return subprocess.Popen(command, env={**environ, "JUPYTER_TOKEN_FILE": str(folder / "token")}), remote


def start_tensorboard(folder: Path, root: str, sock: str) -> tuple[Server, str]:
    """Start TensorBoard, which has no password: its pages lie under a secret path, handed over by stdin."""
    remote = f"127.0.0.1:{free_port()}"
    token = (folder / "token").read_text(encoding="utf-8")
    options = ["--logdir", root, "--host", "127.0.0.1", "--port", remote.rpartition(":")[2], "--load_fast", "false"]
    process = subprocess.Popen([sys.executable, "-m", "limner.cluster.node_server", "tensorboard-child"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(["tensorboard", *options, "--path_prefix", f"/{token}"]).encode() + b"\n")
    process.stdin.close()
    return process, remote


def tensorboard_child() -> int:
    """Serve TensorBoard with the arguments that stand on stdin, so that no `ps` shows them."""
    from tensorboard import program

    arguments = json.loads(sys.stdin.readline())
    board = program.TensorBoard()
    board.configure(argv=arguments)
    board.launch()
    while True:
        time.sleep(3600)


KINDS: dict[str, tuple[Callable[[Path, str, str], tuple[Server, str]], str]] = {
    "jupyter": (start_jupyter, "/api/status?token={token}"),
    "tensorboard": (start_tensorboard, "/{token}/data/environment"),
}


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


def status_of(remote: str, path: str) -> int:
    """Return the HTTP status that the server gives for a path; 0 when it does not answer."""
    host, colon, port = remote.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10) if colon else _UnixConnection(remote)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def serve(kind: str, root: str, *, use_socket: bool) -> int:
    """Start a server of this kind, advertise it in the state folder once it answers to its secret only, and wait for
    its end.
    """
    start, page = KINDS[kind]
    job = os.environ.get("SLURM_JOB_ID", "0")
    folder = state_folder("servers", job)
    (folder / "ready.json").unlink(missing_ok=True)
    token = secrets.token_urlsafe(32)
    write_private(folder / "token", token)
    private = tempfile.mkdtemp(prefix=f"limner-{job}-") if use_socket else ""
    process, remote = start(folder, root, f"{private}/{kind}.sock" if private else "")

    def stop(number: int, frame: Any) -> None:
        process.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        trouble = _trouble(process, remote, page, token)
        if trouble:
            process.terminate()
            sys.stderr.write(f"limner: {trouble}\n")
            write_private(folder / "failed", trouble)
            process.wait(timeout=30)
            return 1
        node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        write_private(folder / "ready.json", json.dumps({"kind": kind, "node": node, "remote": remote, "job": job}))
        sys.stderr.write(f"limner: {kind} is ready on {node}; its address: limner cluster connect {job}\n")
        return process.wait()
    finally:
        (folder / "ready.json").unlink(missing_ok=True)
        (folder / "token").unlink(missing_ok=True)
        if private:
            shutil.rmtree(private, ignore_errors=True)


def _trouble(process: Server, remote: str, page: str, token: str) -> str:
    """Wait until the server answers; return "" when it answers to its secret and to nothing else, or what is wrong."""
    deadline = time.monotonic() + START_SECONDS
    while status_of(remote, page.format(token=token)) != 200:
        if process.poll() is not None:
            return f"the server ended at once with code {process.returncode}"
        if time.monotonic() > deadline:
            return f"the server did not answer within {START_SECONDS} s"
        time.sleep(0.3)
    if status_of(remote, page.format(token="").replace("//", "/")) == 200:
        return "the server answers without its token (a setting of your Jupyter configuration?), so it was stopped"
    if process.poll() is not None:
        return "another program answers at the port that was chosen"
    return ""


def main() -> int:
    """Read the arguments of the job script and serve."""
    parser = argparse.ArgumentParser(prog="limner.cluster.node_server")
    parser.add_argument("kind", choices=[*KINDS, "tensorboard-child"])
    parser.add_argument("--root", default=".")
    parser.add_argument("--socket", action="store_true")
    given = parser.parse_args()
    if given.kind == "tensorboard-child":
        return tensorboard_child()
    return serve(given.kind, str(Path(given.root).resolve()), use_socket=given.socket)


if __name__ == "__main__":
    sys.exit(main())
