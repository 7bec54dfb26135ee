"""Every shape in which Slurm tells of nodes and jobs is read alike, and what cannot be read is said to be so."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.cluster import gres, queue, readers
from limner.cluster.gres import Gpus
from limner.cluster.inventory import Total, classes, recommend, totals
from limner.cluster.nodes import parse_state
from limner.errors import ClusterError

from .shapes import SCONTROL, SINFO, SQUEUE, job_json, node_json, rows_json

VERSIONS = ("22.05", "23.02", "23.11", "24.05", "24.11", "25.05")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu:8", [("gpu", "", 8)]),
        ("gpu:a100:4", [("gpu", "a100", 4)]),
        ("gpu:8(S:0-3)", [("gpu", "", 8)]),
        ("gpu:a100:2(IDX:1,3)", [("gpu", "a100", 2)]),
        ("gpu:a100:4(S:0-1),gpu:v100:2(S:0,2)", [("gpu", "a100", 4), ("gpu", "v100", 2)]),
        ("(null)", []),
        ("N/A", []),
        ("", []),
        ("gpu:nvidia_a100_1g.5gb:7", [("gpu", "nvidia_a100_1g.5gb", 7)]),
        ("gpu:1g.5gb:7(S:0)", [("gpu", "1g.5gb", 7)]),
        ("gpu:4090:2", [("gpu", "4090", 2)]),
        ("shard:a100:32,mps:400", [("shard", "a100", 32), ("mps", "", 400)]),
        ("lustre:no_consume:4K", [("lustre", "", 4096)]),
        ("gres:gpu:a100:1", [("gpu", "a100", 1)]),
        ("gres/gpu:2", [("gpu", "", 2)]),
        ("gpu", [("gpu", "", 1)]),
        ("gpu:a100", [("gpu", "a100", 1)]),
    ],
)
def test_every_form_of_gres_is_read(text: str, expected: list[tuple[str, str, int]]) -> None:
    assert [(item.name, item.type, item.count) for item in gres.parse(text)] == expected


def test_gpus_of_a_tres_list_count_once() -> None:
    assert gres.count_gpus(gres.parse_tres("cpu=2,mem=4000M,gres/gpu:a100=1,gres/gpu=1")) == 1
    assert gres.count_gpus(gres.parse_tres("gres/gpu=4,gres/gpu:a100=2,gres/gpu:v100=2")) == 4
    assert gres.count_gpus(gres.parse_tres("gres/gpu=4,gres/gpu:a100=1")) == 4
    assert gres.count_gpus(gres.parse_tres("gres/gpu=2")) == 2
    assert gres.parse_tres("cpu=2,mem=4000M") == []


def test_a_gpu_with_a_busy_share_is_not_free_as_a_whole() -> None:
    noted = gres.gpus("gpu:l4:4,shard:l4:32", "gpu:l4:1(IDX:0),shard:l4:3(0/8,2/8,1/8,0/8)")
    assert noted == [Gpus("l4", 4, 1, 2)] and noted[0].free == 1
    assert gres.gpus("gpu:l4:4,shard:l4:32", "gpu:l4:0,shard:l4:9")[0].free == 2  # nine shares open at least two
    assert gres.gpus("gpu:2,mps:200", "gpu:0,mps:50")[0].free == 1


def test_untyped_use_is_taken_from_typed_gpus() -> None:
    assert gres.gpus("gpu:a100:4", "gpu:3") == [Gpus("a100", 4, 3)]
    assert gres.gpus("gpu:4", "gpu:a100:3") == [Gpus("gpu", 4, 3)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mix*", ("mixed", "not_responding")),
        ("IDLE+DRAIN", ("idle", "drain")),
        ("idle~", ("idle", "sleeping")),
        ("DOWN*+DRAIN", ("down", "not_responding", "drain")),
        ("idle$", ("idle", "maintenance")),
        ("alloc", ("allocated",)),
        ("IDLE+CLOUD+POWERED_DOWN", ("idle", "cloud", "sleeping")),
        ("mixed-", ("mixed", "planned")),
    ],
)
def test_states_are_read_in_long_words(text: str, words: tuple[str, ...]) -> None:
    found = parse_state(text)
    assert found[0] == words[0] and ("drained" in found) == ("drain" in words)
    assert [word for word in found if word != "drained"] == [word for word in words if word != "drain"]


@pytest.mark.parametrize(
    "state",
    [
        "idle*",
        "drain",
        "drng",
        "down",
        "maint",
        "resv",
        "inval",
        "fail",
        "idle@",
        "idle%",
        "mixed+drain",
        "unk",
        "brandnew",
    ],
)
def test_a_node_that_cannot_start_a_job_has_nothing_free(state: str) -> None:
    [node] = readers.parse_sinfo(f"g1|gpu|{state}|gpu:8|gpu:0|0/64/0/64|1000|0||none|")
    assert not node.open and node.gpus_free == 0


@pytest.mark.parametrize("state", ["idle", "mixed", "idle~", "idle#", "mix-", "idle+planned"])
def test_a_node_that_can_start_a_job_has_its_gpus_free(state: str) -> None:
    [node] = readers.parse_sinfo(f"g1|gpu|{state}|gpu:8|gpu:3|0/64/0/64|1000|0||none|")
    assert node.open and node.gpus_free == 5


def test_sinfo_counts_each_node_once_and_only_usable_gpus_as_free() -> None:
    nodes = {node.name: node for node in readers.parse_sinfo(SINFO)}
    assert list(nodes) == ["g1", "g2", "g3", "g4", "g5", "m1", "s1", "c1"]
    assert nodes["g1"].partitions == ("all", "gpu") and nodes["g1"].gpus_free == 5
    assert nodes["g2"].gpus_free == 0 and nodes["g2"].reason == "fan | broken"
    assert nodes["g3"].gpus_free == 0  # no CPU is left
    assert nodes["g4"].gpus_free == 2 and nodes["g5"].gpus_free == 0
    assert nodes["m1"].gpus == (Gpus("a100_1g.5gb", 7, 2), Gpus("a100_3g.20gb", 2, 0))
    assert nodes["s1"].gpus_free == 1 and nodes["c1"].open
    for total in totals(nodes.values()):
        assert total.free + total.used + total.away == total.total
    assert next(t for t in totals(nodes.values()) if t.type == "a100") == Total("a100", free=5, used=3, away=8, total=16)


def test_text_and_every_json_agree() -> None:
    expected = [node for node in readers.parse_sinfo(SINFO) if node.name in ("g1", "g2")]
    facts = [(n.name, n.gpus, n.cpus, n.cpus_used, n.memory, n.memory_used, n.open, n.partitions) for n in expected]
    for nodes in [readers.parse_scontrol(SCONTROL), *(readers.parse_json(node_json(version)) for version in VERSIONS)]:
        assert [(n.name, n.gpus, n.cpus, n.cpus_used, n.memory, n.memory_used, n.open, n.partitions) for n in nodes] == facts


def test_rows_of_newer_sinfo_json_are_read_or_refused() -> None:
    nodes = readers.parse_json(rows_json())
    assert [(n.name, n.gpus_free, n.gpus_used, n.partitions) for n in nodes] == [
        ("g1", 5, 3, ("all", "gpu")),
        ("g2", 0, 0, ("gpu",)),
        ("g3", 0, 0, ("gpu",)),
    ]
    with pytest.raises(ClusterError, match="adds up 2 nodes"):
        readers.parse_json(rows_json().replace('"IDLE", "DRAIN"', '"MIXED"'))


def test_scontrol_without_d_is_refused_because_it_hides_the_use() -> None:
    lines = [line for line in SCONTROL.splitlines() if "GresUsed" not in line and "TRES" not in line]
    with pytest.raises(ClusterError, match="without its option -d"):
        readers.parse_scontrol("\n".join(lines))


def test_squeue_rows_are_read() -> None:
    jobs = queue.parse_squeue(SQUEUE)
    assert [(job.id, job.gpus, job.elapsed, job.limit) for job in jobs] == [
        ("101", 4, 93784, 172800),
        ("102", 2, 0, 28800),
        ("103_7", 0, 0, None),
        ("104", 0, 721, 3600),
    ]
    assert jobs[1].name == "a name | with bars" and jobs[1].start == "2026-02-01T10:00:00"
    assert queue.explain(jobs[2].reason) == "waits behind jobs of higher priority"
    assert jobs[3].over and jobs[0].running and jobs[1].pending


@pytest.mark.parametrize("version", VERSIONS)
def test_squeue_json_of_every_version_is_read_alike(version: str) -> None:
    [job] = queue.parse_json(job_json(version))
    assert (job.id, job.state, job.nodes, job.num_nodes, job.gpus, job.limit) == ("77", "RUNNING", "g[1-2]", 2, 4, 3600)


def mangled(text: str, seed: int) -> str:
    """The text cut, with bytes changed, lines torn, fields dropped or doubled."""
    draw = random.Random(seed)
    kind = seed % 5
    if kind == 0:
        return text[: draw.randrange(1, len(text))]
    if kind == 1:
        letters = list(text)
        for _ in range(20):
            letters[draw.randrange(len(letters))] = draw.choice("|:,=({[\x00\xff9a\n")
        return "".join(letters)
    if kind == 2:
        return text.replace(draw.choice("|:=,0"), draw.choice(["", "||", "?", "\t"]))
    if kind == 3:
        words = text.split(" ")
        draw.shuffle(words)
        return " ".join(words)
    return "sinfo: error: slurm_load_partitions: Unable to contact slurm controller\n" + text[draw.randrange(len(text)) :]


READERS = (
    (readers.parse_sinfo, SINFO),
    (readers.parse_scontrol, SCONTROL),
    (readers.parse_json, node_json("22.05")),
    (readers.parse_json, rows_json()),
    (queue.parse_squeue, SQUEUE),
    (queue.parse_json, job_json("24.11")),
)


@pytest.mark.parametrize("seed", range(100))
def test_mangled_output_is_read_or_honestly_refused(seed: int) -> None:
    for read, text in READERS:
        try:
            read(mangled(text, seed))
        except ClusterError as error:
            assert "cannot read" in str(error) and len(str(error).splitlines()) <= 10


def test_most_mangled_outputs_are_refused_and_not_half_read() -> None:
    refused = 0
    for seed in range(100):
        try:
            readers.parse_sinfo(mangled(SINFO, seed))
        except ClusterError:
            refused += 1
    assert refused >= 80


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_text_crashes_a_reader(text: str) -> None:
    for read, _ in READERS:
        try:
            found = read(text)
        except ClusterError as error:
            assert "cannot read" in str(error) and len(str(error).splitlines()) <= 10
        else:
            assert isinstance(found, list)


KEYS = ("nodes", "state", "name", "number", "set", "gres", "cpus")
TREES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_no_json_crashes_a_reader(tree: object) -> None:
    import json

    for key in ("nodes", "sinfo", "jobs"):
        for read in (readers.parse_json, queue.parse_json):
            try:
                found = read(json.dumps({key: [tree]}))
            except ClusterError as error:
                assert "cannot read" in str(error) and len(str(error).splitlines()) <= 10
            else:
                assert isinstance(found, list)


def test_the_recommendation_names_a_command() -> None:
    nodes = readers.parse_sinfo(SINFO)
    assert recommend(nodes)[1] == "limner cluster jupyter gpu"
    busy = readers.parse_sinfo("g1|gpu|mixed|gpu:2|gpu:2|4/60/0/64|1000|0||none|")
    assert "No GPU is free" in recommend(busy)[0]
    away = readers.parse_sinfo("g1|gpu|down|gpu:2|gpu:0|0/0/64/64|1000|0||none|\nc1|cpu|idle|(null)|(null)|0/4/0/4|9|0||none|")
    assert recommend(away)[1] == "limner cluster jupyter cpu"


def test_classes_say_what_nodes_are_good_for() -> None:
    found = classes(readers.parse_sinfo(SINFO))
    assert found[0].gpus == 9 and "slices" in found[0].good_for
    assert any("no GPU" in kind.good_for for kind in found)
    assert sum(len(kind.nodes) for kind in found) == 8
