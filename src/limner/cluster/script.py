"""Writes sbatch scripts that people can read: what is asked of Slurm on top, what is run below. Pure text, nothing is
submitted.

How signals travel (docs/cluster.md tells the measurements): Slurm sends USR1 to the ranks shortly before the time
limit, and TERM to everything at preemption. The ranks save and exit with 75, "not finished". After preemption Slurm
puts the job back by itself; at the time limit this script does; after a cancel nobody does.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from limner.errors import ClusterError, shorten

NOT_FINISHED = 75
SAVE_SECONDS = 120
MAX_REQUEUES = 100


@dataclass(frozen=True)
class Resources:
    """What one job asks of Slurm. `gpus`, `tasks` and `memory_mb` are for each node, `cpus` for each task; "" is
    Slurm's default.
    """

    hours: float
    nodes: int = 1
    tasks: int = 1
    gpus: int = 0
    gpu_type: str = ""
    cpus: int = 1
    memory_mb: int = 0
    partition: str = ""
    qos: str = ""
    account: str = ""
    nodelist: str = ""
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Surroundings:
    """What has to be there before the program runs: modules, a shell line, variables, and the words that start
    Python.
    """

    python: tuple[str, ...]
    modules: tuple[str, ...] = ()
    activate: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def header(resources: Resources, *, name: str, log: str, requeue: bool, array: str = "") -> list[str]:
    """Return the `#SBATCH` lines.

    Raises: ClusterError when a value would not survive on such a line.
    """
    asked = resources
    lines = {
        "job-name": name,
        "output": _path(log),
        "open-mode": "append",
        "array": array,
        "nodes": asked.nodes,
        "ntasks-per-node": asked.tasks,
        "gres": gres_request(asked.gpus, asked.gpu_type),
        "cpus-per-task": asked.cpus,
        "mem": f"{asked.memory_mb}M" if asked.memory_mb else "",
        "time": clock(asked.hours),
        "partition": asked.partition,
        "qos": asked.qos,
        "account": asked.account,
        "nodelist": asked.nodelist,
        "export": "ALL",
    }
    text = [f"#SBATCH --{key}={_value(value)}" for key, value in lines.items() if value != ""]
    if requeue:
        text += ["#SBATCH --requeue", f"#SBATCH --signal=USR1@{save_seconds(asked.hours)}"]
    else:
        text += ["#SBATCH --no-requeue"]
    return text + [f"#SBATCH {_value(line)}" for line in asked.more]


def preamble(around: Surroundings) -> list[str]:
    """Return the lines that bring the user's surroundings to the node."""
    lines = [f"export {key}={shlex.quote(value)}" for key, value in around.environment.items()]
    lines += [f"module load {shlex.quote(name)}" for name in around.modules]
    if around.activate:
        lines += ['eval "$(conda shell.bash hook)"'] if around.activate.startswith("conda activate") else []
        lines += [around.activate]
    return [*lines, ""] if lines else []


def train_script(
    resources: Resources,
    around: Surroundings,
    *,
    recipe: str,
    overrides: Sequence[str],
    run: str,
    sweep: Sequence[tuple[str, Sequence[str]]] = (),
) -> str:
    """Return the script of a training job: one srun task a rank, no launcher, saved and requeued until it is finished.

    Arguments:
        run: the run folder, absolute.
        sweep: for an array, each task's own run folder and overrides.
    """
    python = shlex.join(around.python)
    log = f"{run}/job-%A_%a.log" if sweep else f"{run}/job-%j.log"
    array = f"0-{len(sweep) - 1}" if sweep else ""
    command = [f"  {python} -m limner train {shlex.quote(recipe)}", *(f"    {shlex.quote(o)}" for o in overrides)]
    command += ['    "$@" --out "$run" --resume'] if sweep else [f"    --out {shlex.quote(run)} --resume"]
    return _text(
        "#!/bin/bash",
        f"# limner: train {recipe}. Submit it again at any time: what is done is kept.".replace("\n", " "),
        *header(resources, name=_name(recipe, run), log=log, requeue=True, array=array),
        "",
        *preamble(around),
        *_sweep_case(sweep),
        'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
        "# The ranks meet at this address and port, chosen on the first node and the same for all of them.",
        f'eval "$({python} -m limner.cluster.rendezvous)"',
        "",
        "# TERM and USR1 are for the ranks: they save at the next step. This script only waits for them.",
        "trap : TERM USR1",
        f"srun --export=ALL --kill-on-bad-exit=0 --wait=600 --cpus-per-task={resources.cpus} \\",
        *_continued(command),
        "code=$?",
        "",
        *_requeue_lines(),
    )


def simple_script(resources: Resources, around: Surroundings, *, name: str, log: str, arguments: Sequence[str]) -> str:
    """Return the script of a job that runs one process once: `python -m ARGUMENTS`."""
    return _text(
        "#!/bin/bash",
        *header(resources, name=name, log=log, requeue=False),
        "",
        *preamble(around),
        f"exec {shlex.join(around.python)} -m {shlex.join(arguments)}",
    )


def _requeue_lines() -> list[str]:
    return [
        f"# {NOT_FINISHED} means saved, not finished. After preemption Slurm requeues by itself, after cancel nobody:",
        "# in both cases the job is no longer RUNNING. At the time limit it still is, and goes back into the queue.",
        f'if [ "$code" -eq {NOT_FINISHED} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {MAX_REQUEUES} ]; then',
        '  job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"; job="${job:-$SLURM_JOB_ID}"',
        "  if ! command -v scontrol >/dev/null; then",
        '    echo "limner: saved but not finished, and this node has no scontrol to requeue it. Submit it again." >&2',
        '  elif [ "$(squeue -h -j "$job" -o %T)" = RUNNING ]; then',
        '    echo "limner: saved but not finished; back into the queue" >&2',
        '    scontrol requeue "$job"',
        "  fi",
        "fi",
        'exit "$code"',
    ]


def _sweep_case(sweep: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    if not sweep:
        return []
    lines = ["# Each task of the array is one run of the sweep.", 'case "$SLURM_ARRAY_TASK_ID" in']
    for index, (folder, overrides) in enumerate(sweep):
        lines.append(f"  {index}) run={shlex.quote(folder)}; set -- {shlex.join(overrides)} ;;")
    return [*lines, "esac", ""]


def gres_request(gpus: int, kind: str = "") -> str:
    """Return `gpu:a100:2`, `gpu:2`, or "" for no GPU."""
    if gpus <= 0:
        return ""
    return f"gpu:{kind}:{gpus}" if kind and kind != "gpu" else f"gpu:{gpus}"


def clock(hours: float) -> str:
    """Return hours as Slurm writes a time limit, `1-02:30:00`; at least one minute.

    Raises: ClusterError when `hours` is not a positive number below a year.
    """
    if not 0 < hours < 8784:
        raise ClusterError(f"--hours {hours} is no time limit. Give a number of hours above 0, such as --hours 8 or --hours 0.5")
    minutes = max(1, round(hours * 60))
    days, rest = divmod(minutes, 1440)
    return (f"{days}-" if days else "") + f"{rest // 60:02}:{rest % 60:02}:00"


def save_seconds(hours: float) -> int:
    """Return how long before the time limit the ranks are told to save: two minutes, less for very short jobs."""
    return min(SAVE_SECONDS, max(10, int(hours * 3600 / 4)))


def _name(recipe: str, run: str) -> str:
    stem = run.rstrip("/").rpartition("/")[2] or recipe
    return "limner-" + "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in stem)[:40]


def _path(text: str) -> str:
    """A path for `--output`: Slurm reads `%` in it, so the user's own are doubled, all but ours."""
    head, _, tail = text.rpartition("/")
    return head.replace("%", "%%") + "/" + tail if head else tail


def _value(value: object) -> str:
    text = str(value)
    if any(letter in text for letter in '\n\r"\\'):
        raise ClusterError(f"{shorten(text)} cannot stand in a job script: quotes, backslashes and line breaks are not allowed.")
    return f'"{text}"' if " " in text and not text.startswith("--") else text


def _continued(lines: list[str]) -> list[str]:
    return [line + " \\" for line in lines[:-1]] + lines[-1:]


def _text(*lines: str) -> str:
    return "\n".join(lines) + "\n"
