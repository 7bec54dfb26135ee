"""A real JupyterLab job, reached through a real sshd on loopback with exactly the printed command; and nobody else
gets in.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Shell
from .control import SlurmCluster, free_ports

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real sshd on loopback that knows one key; gives the client's configuration file, which all hops use."""
    if shutil.which("sshd") is None and not Path("/usr/sbin/sshd").exists():
        pytest.skip("needs openssh-server")
    folder = tmp_path_factory.mktemp("ssh")
    folder.chmod(0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    port = free_ports(1)[0]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/sshd.pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    (folder / "config").write_text(
        f"Host *\n  Port {port}\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n"
        f"  UserKnownHostsFile {folder}/known\n  LogLevel ERROR\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
    yield folder / "config"
    server.terminate()
    server.wait(timeout=10)


@pytest.fixture
def other_user() -> Iterator[str]:
    """Another local user, who is in no group of ours."""
    if os.geteuid() != 0 or shutil.which("useradd") is None:
        pytest.skip("needs root and useradd")
    name = f"limner-test-{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", name], check=True)
    yield name
    subprocess.run(["userdel", name], check=False, capture_output=True)


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def tunnel(command: str, url: str) -> subprocess.Popen[bytes]:
    """Run the printed command as it stands, word by word, and wait until something answers at the local port."""
    process = subprocess.Popen(command.split(" "), stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while status(url) == 0:
        assert process.poll() is None and time.monotonic() < deadline, "the tunnel did not come up"
        time.sleep(0.3)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(timeout=10)


def profile(shell: Shell, config: Path) -> None:
    lines = ["login_host: 127.0.0.1", "jump_host: localhost", f"ssh_options: ['-F', '{config}']"]
    (shell.home / "cluster.yaml").write_text("\n".join(lines) + "\n")


def as_user(name: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["runuser", "-u", name, "--", *args], capture_output=True, text=True, timeout=30, check=False)


def printed(out: str, sign: str) -> str:
    return next(line.strip() for line in out.splitlines() if line.strip().startswith(sign))


def test_jupyterlab_is_reached_by_exactly_the_printed_command_and_by_its_owner_only(
    slurm: SlurmCluster, shell: Shell, sshd: Path, other_user: str
) -> None:
    profile(shell, sshd)
    shell.environment["MINE"] = "kept"
    local = free_ports(1)[0]
    out = shell.limner("jupyter", "n2", "--gpus", "1", "--hours", "1", "--local-port", str(local), timeout=180)
    command, url = printed(out, "ssh "), printed(out, "http://localhost")
    job = printed(out, "limner cluster cancel").split()[-1]
    token = url.partition("token=")[2]
    remote = re.search(r"-L \d+:127\.0\.0\.1:(\d+)", command)
    assert remote and len(token) >= 40
    assert "-J root@localhost,root@127.0.0.1 root@127.0.0.1" in command and not set("'\"$`;&|<>*") & set(command)
    assert slurm.job_state(job) == "RUNNING" and shell.data("gpus")["totals"][0]["used"] == 1

    process = tunnel(command, url)
    try:
        base = f"http://localhost:{local}"
        assert status(url) == 200
        assert status(f"{base}/api/contents?token={token}") == 200
        assert status(f"{base}/api/contents") == 403
        assert status(f"{base}/api/contents?token=wrong") == 403
        check_kernel(base, token)
    finally:
        end(process)
    check_secrecy(slurm, shell, job, token)

    # Another local user reaches the port on loopback, as anybody on a shared node can, and gets nothing.
    script = (
        "import sys, urllib.request, urllib.error\n"
        "try:\n    print(urllib.request.urlopen(sys.argv[1], timeout=10).status)\n"
        "except urllib.error.HTTPError as error:\n    print(error.code)\n"
    )
    there = f"http://127.0.0.1:{remote[1]}/api/contents"
    assert as_user(other_user, "/usr/bin/env", "python3", "-c", script, there).stdout.strip() == "403"
    for path in (shell.home / "state" / "limner").rglob("*"):
        assert as_user(other_user, "cat", str(path)).returncode != 0, path

    assert "is cancelled" in shell.limner("cancel", job)
    slurm.until(lambda: status(there) == 0, what="the server's end")
    secret = shell.home / "state" / "limner" / "servers" / job / "token"
    slurm.until(lambda: not secret.exists(), what="the token's end")


def check_kernel(base: str, token: str) -> None:
    """The server offers a Python kernel: the one of the environment it was submitted from."""
    request = urllib.request.Request(f"{base}/api/kernelspecs?token={token}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        spec = json.loads(answer.read())["kernelspecs"]["python3"]["spec"]
    assert spec["language"] == "python"


def check_secrecy(slurm: SlurmCluster, shell: Shell, job: str, token: str) -> None:
    """The token stands in no argument, job field or log; its file and folder are the owner's alone."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = process.read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if "ssh" not in arguments and str(os.getpid()) != process.parent.name:
            assert token not in arguments
    assert token not in slurm.call("scontrol", "show", "job", "-d", job)
    assert token not in slurm.call("scontrol", "write", "batch_script", job, "-")
    assert token not in shell.limner("logs", job, "-n", "10000")
    path = shell.home / "state" / "limner" / "servers" / job / "token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    environ = owner_environment(job)
    assert environ["MINE"] == "kept" and environ["SLURM_JOB_ID"] == job
    code = "import limner.cluster; print(limner.cluster.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert "limner" in done.stdout


def owner_environment(job: str) -> dict[str, str]:
    """The environment of the job's JupyterLab process, as the kernel of a notebook inherits it."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"jupyterlab" in (path / "cmdline").read_bytes():
                items = (path / "environ").read_bytes().decode().split("\0")
                environ = dict(item.split("=", 1) for item in items if "=" in item)
                if environ.get("SLURM_JOB_ID") == job:
                    return environ
        except OSError:
            continue
    raise AssertionError("no JupyterLab process of this job")


def test_a_unix_socket_keeps_other_users_out_altogether(slurm: SlurmCluster, shell: Shell, sshd: Path, other_user: str) -> None:
    profile(shell, sshd)
    local = free_ports(1)[0]
    out = shell.limner("jupyter", "cpu", "--hours", "1", "--socket", "--local-port", str(local), timeout=180)
    command, url = printed(out, "ssh "), printed(out, "http://localhost")
    remote = re.search(r"-L \d+:(/\S+)", command)
    assert remote and stat.S_IMODE(Path(remote[1]).stat().st_mode) == 0o600
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"
    assert as_user(other_user, "/usr/bin/env", "python3", "-c", code, remote[1]).returncode != 0
    process = tunnel(command, url)
    try:
        assert status(url) == 200
        assert status(f"http://localhost:{local}/api/contents") == 403
    finally:
        end(process)
    again = shell.limner("connect", "--local-port", str(local))
    assert printed(again, "ssh ") == command and printed(again, "http://localhost") == url


def test_tensorboard_lies_behind_a_secret_path(slurm: SlurmCluster, shell: Shell, sshd: Path) -> None:
    profile(shell, sshd)
    del shell.environment["PYTHONWARNINGS"]  # TensorBoard itself warns
    (shell.home / "runs").mkdir()
    local = free_ports(1)[0]
    out = shell.limner("tensorboard", "runs", "--hours", "1", "--local-port", str(local), timeout=180)
    command, url = printed(out, "ssh "), printed(out, "http://localhost")
    token = url.rstrip("/").rpartition("/")[2]
    process = tunnel(command, url)
    try:
        assert status(url) == 200 and status(f"{url}data/environment") == 200
        assert status(f"http://localhost:{local}/data/environment") == 404
        assert status(f"http://localhost:{local}/wrong/data/environment") == 404
    finally:
        end(process)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert token.encode() not in path.read_bytes()
        except OSError:
            continue


def test_a_server_without_a_token_is_stopped_and_not_advertised(shell: Shell) -> None:
    config = shell.home / ".jupyter"
    config.mkdir()
    (config / "jupyter_server_config.py").write_text("c.IdentityProvider.token = ''\nc.ServerApp.allow_root = True\n")
    message = shell.limner("jupyter", "cpu", code=2, timeout=180)
    assert "answers without its token" in message and "http" not in message


def test_waiting_is_explained_and_ends_at_its_time_limit(slurm: SlurmCluster, shell: Shell) -> None:
    for node in ("n1", "n2"):
        slurm.hold(2, node, seconds=300)
    message = shell.limner("jupyter", "gpu", "--hours", "1", "--wait", "8", code=2)
    assert "is not ready after 8 s" in message and "waits" in message and "limner cluster cancel" in message
    job = re.findall(r"limner cluster cancel (\d+)", message)[-1]
    assert slurm.job_state(job) == "PENDING"
    message = shell.limner("connect", job, "--wait", "3", code=2)
    assert "is not ready after 3 s" in message


def test_what_can_never_start_is_told_at_once(shell: Shell) -> None:
    message = shell.limner("jupyter", "gpu", "--partition", "also", "--hours", "30", code=2, timeout=60)
    assert "never start" in message and "limner cluster cancel" in message


def test_ctrl_c_leaves_the_job_or_ends_it_when_asked(slurm: SlurmCluster, shell: Shell) -> None:
    for node in ("n1", "n2"):
        slurm.hold(2, node, seconds=300)
    for option, state in (([], "PENDING"), (["--cancel-on-exit"], "CANCELLED")):
        process = shell.start("jupyter", "gpu", *option)
        time.sleep(5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130 and "Traceback" not in err
        job = re.findall(r"job (\d+) is submitted", err)[0]
        assert slurm.job_state(job) == state
        assert ("is cancelled" if option else "stays in the queue") in err


def test_several_servers_are_listed_to_choose_from(slurm: SlurmCluster, shell: Shell) -> None:
    for node in ("n1", "n2"):
        slurm.hold(2, node, seconds=300)
    assert "no notebook" in shell.limner("connect", code=2)
    for _ in range(2):
        shell.limner("jupyter", "gpu", "--wait", "0", code=2)
    message = shell.limner("connect", code=2)
    assert message.count("limner cluster connect") == 2 and "say which" in message


def test_a_node_that_does_not_exist_is_told(shell: Shell) -> None:
    message = shell.limner("jupyter", "n7", code=2)
    assert "no node 'n7'" in message and "limner cluster nodes" in message
