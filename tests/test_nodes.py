"""What an autoscaler was told, read as it is on the head node: from its command line, and in Ray's own form for Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, FileConfigReader
from ray.autoscaler.v2.schema import ClusterStatus, LaunchRequest, NodeInfo

from geobatch import nodes
from geobatch.actors import Hands
from geobatch.layout import UNBOUNDED, Nodes, NodeType, settle
from geobatch.nodes import _alike, _counted, brought, configured, types_of
from geobatch.pipeline.machines import coming
from tests.river.cloud import autoscaling

ROOT = Path(__file__).parent.parent

TYPES = {
    "cpu": {"resources": {"CPU": 16}, "max_workers": 8},
    "gpu": {"resources": {"CPU": 8, "GPU": 1}, "labels": {"market": "spot"}, "max_workers": 4},
    "none": {"resources": {"CPU": 64}, "max_workers": 0},
}
SESSION = "session_2026-11-21_23-53-47_196706_14795"


def processes(folder: Path, *commands: str) -> Path:
    """A folder like the kernel's, of processes with these command lines."""
    for number, command in enumerate(commands, 10):
        (folder / str(number)).mkdir(parents=True)
        (folder / f"{number}/cmdline").write_text("\0".join(command.split()) + "\0")
    (folder / "meminfo").touch()
    return folder


def test_the_autoscaler_of_this_session_is_found_by_its_command_line(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    told.write_text(json.dumps(autoscaling(6379, TYPES, workers=10, idle_s=60)))
    (tmp_path / "other.json").write_text(json.dumps(autoscaling(6379, {}, workers=0, idle_s=60)))
    there = processes(
        tmp_path / "proc",
        "/sbin/init",
        f"python monitor.py --logs-dir=/tmp/ray/session_2020/logs --autoscaling-config={tmp_path}/other.json",
        f"python gcs_server --session-name={SESSION}",
        f"python monitor.py --logs-dir=/tmp/ray/{SESSION}/logs --gcs-address=10.0.0.1:6379 --autoscaling-config={told}",
    )
    types, workers, known = configured(SESSION, there)
    assert known and workers == 10
    assert [(each.name, dict(each.resources), dict(each.labels), each.most, each.brought) for each in types] == [
        ("cpu", {"CPU": 16.0}, {}, 8, True),
        ("gpu", {"CPU": 8.0, "GPU": 1.0}, {"market": "spot"}, 4, True),
    ]


def test_a_cluster_without_an_autoscaler_has_what_is_alive(tmp_path: Path) -> None:
    there = processes(tmp_path, f"python monitor.py --logs-dir=/tmp/ray/{SESSION}/logs")
    assert configured(SESSION, there) == ([], 0, True)


@pytest.mark.parametrize("content", [None, "no: [yaml", "provider: {}"])
def test_what_cannot_be_read_is_not_known_and_refuses_nothing(tmp_path: Path, content: str | None) -> None:
    told = tmp_path / "told.yaml"
    if content is not None:
        told.write_text(content)
    there = processes(tmp_path / "proc", f"monitor.py --logs-dir=/tmp/ray/{SESSION}/logs --autoscaling-config={told}")
    types, workers, known = configured(SESSION, there)
    assert not known
    assert settle([Hands(stage=Path, workers=7, gpus=64).pool()], Nodes(types=tuple(types), workers=workers, known=known)) == [
        7
    ]


def nodes_of(config: AutoscalingConfig) -> Nodes:
    types, workers, known = types_of(config)
    return Nodes(types=(NodeType(name="head", resources={}), *types), workers=workers, known=known)


def test_our_own_cluster_holds_a_river_on_gpus(tmp_path: Path) -> None:
    (tmp_path / "key").touch()  # the autoscaler knows its settings by a digest, which holds the key
    ours = (ROOT / "cluster.yaml").read_text().replace("~/.ssh/geobatch.pem", str(tmp_path / "key"))
    (tmp_path / "ours.yaml").write_text(ours)
    there = nodes_of(FileConfigReader(str(tmp_path / "ours.yaml")).get_cached_autoscaling_config())
    stages = {"Read": Hands(stage=Path, cpus=0.5), "Decode": Hands(stage=Path, workers=200)}
    stages |= {"Embed": Hands(stage=Path, workers=16, gpus=0.5), "Write": Hands(stage=Path, cpus=0.5)}
    assert there.total("GPU") >= 16
    read, decode, embed, write = settle([each.pool() for each in stages.values()], there)
    assert (read, embed, write) == (1, 16, 1) and decode > 100


def kubernetes() -> dict[str, Any]:
    """The cluster of our manifest as Kubernetes records it."""
    parts = [part for part in yaml.safe_load_all((ROOT / "jobs/cluster/nightly.yaml").read_text()) if part]
    (job,) = [part for part in parts if part["kind"] == "RayCronJob"]
    return {"metadata": {"name": "geobatch", "namespace": "night"}, "spec": job["spec"]["jobTemplate"]["rayClusterSpec"]}


def test_the_manifest_of_kubernetes_is_read_as_its_autoscaler_reads_it() -> None:
    there = nodes_of(AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(kubernetes())))
    assert there.known and there.workers == sum(each.most for each in there.types if each.brought)
    assert there.total("GPU") >= 1 and there.total("CPU") > 8
    settle([Hands(stage=Path).pool(), Hands(stage=Path, gpus=1).pool()], there)


@pytest.mark.parametrize(("told", "file", "known"), [("night", None, True), (None, "night\n", True), (None, None, False)])
def test_a_head_of_kuberay_knows_its_groups_or_says_that_it_does_not(
    told: str | None, file: str | None, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 1.6 KubeRay did not tell the namespace; what is not known may refuse no job on a group scaled to zero."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("RAY_CLUSTER_NAME", "geobatch")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", told or "")
    monkeypatch.setattr(nodes, "SPACE", tmp_path / "namespace")
    if file:
        (tmp_path / "namespace").write_text(file)
    asked = []

    def producer(name: str, space: str) -> Callable[[], dict[str, Any]]:
        asked.append((name, space))
        return lambda: _derive_autoscaling_config_from_ray_cr(kubernetes())

    monkeypatch.setattr(autoscaling_config, "AutoscalingConfigProducer", producer)
    types, workers, answer = configured(SESSION, tmp_path)
    there = Nodes(types=(NodeType(name="head", resources={}), *types), workers=workers, known=answer)
    assert answer is known and asked == [("geobatch", "night")] * known
    assert settle([Hands(stage=Path, gpus=1, workers=3).pool()], there) == [3]


def test_a_node_that_lives_is_of_the_type_that_brought_it() -> None:
    kind = NodeType(name="gpu", resources={"CPU": 8, "GPU": 1}, labels={"market": "spot"}, most=UNBOUNDED, brought=True)
    assert _alike(kind, {"CPU": 8.0, "GPU": 1.0, "memory": 9e9}, {"market": "spot", "zone": "a"})
    assert not _alike(kind, {"CPU": 8.0, "GPU": 1.0}, {})
    assert not _alike(kind, {"CPU": 8.0}, {"market": "spot"})
    assert not _alike(kind, {"CPU": 8.0, "GPU": 1.0, "disk": 1.0}, {"market": "spot"})


def living(address: str, **resources: float) -> dict[str, Any]:
    """A node as `ray.nodes()` tells it."""
    own = {f"node:{address}": 1.0, "object_store_memory": 8e9, "memory": 28e9}
    labels = {"ray.io/node-id": address, "ray.io/accelerator-type": "x"}
    return {
        "Alive": True,
        "Resources": {**own, **{name.replace("__", ":", 1): each for name, each in resources.items()}},
        "Labels": labels,
    }


def test_nodes_that_live_are_not_counted_beside_the_group_that_brought_them() -> None:
    """A group of KubeRay does not say what GPUs its nodes have, and may have several kinds of them."""
    there = nodes_of(AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(kubernetes())))
    types = [each for each in there.types if each.brought]
    head = living("10.0.0.1", node____internal_head__=1)
    gpus = [
        living("10.0.0.2", CPU=7, GPU=1, accelerator_type__L4=1),
        living("10.0.0.3", CPU=7, GPU=1, accelerator_type__A10G=1),
    ]
    counted = Nodes(types=_counted([head, *gpus, living("10.0.0.4", CPU=15)], types), workers=there.workers)
    assert counted.total("GPU") == there.total("GPU") == 16 and counted.total("CPU") == there.total("CPU")
    assert [each.name for each in counted.types] == ["head", *(each.name for each in types)]
    for kind in ("L4", "A10G"):  # what lives can be asked for by name
        assert settle([Hands(stage=Path, gpus=1, accelerator=kind).pool()], counted) == [1]
    spoken = NodeType(name="l4", resources={"CPU": 7, "GPU": 1, "accelerator_type:L4": 1}, most=2, brought=True)
    assert [each.most for each in _counted(gpus, [spoken])] == [1, 2]  # the other kind is none of these


class Far:
    """Knows where it lies here."""

    def here(self) -> str:
        return "/here"


def test_what_knows_where_it_lies_is_asked_wherever_it_stands_and_the_rest_is_the_same_object() -> None:
    plain = Hands(stage=Far, make={"config": [1, ("a",)]})
    assert brought({"a": Far(), "b": [Far(), 1], "c": (Far(),), "d": plain, "e": Far}) == {
        "a": "/here",
        "b": ["/here", 1],
        "c": ("/here",),
        "d": plain,
        "e": Far,
    }
    assert brought(plain) is plain
    assert brought(Hands(stage=Far, make={"model": Far()})).make == {"model": "/here"}


def cluster(**told: Any) -> ClusterStatus:
    """What a cluster says of nodes: by name of the type, those on their way, launched, failed."""
    node = partial(NodeInfo, instance_type_name="g6.2xlarge", ip_address="")
    ask = partial(LaunchRequest, instance_type_name="g6.2xlarge", count=2, request_ts_s=1)
    return ClusterStatus(
        pending_nodes=[node(ray_node_type_name=name, instance_id=f"i{at}") for at, name in enumerate(told.get("pending", []))],
        pending_launches=[
            ask(ray_node_type_name=name, state=LaunchRequest.Status.PENDING) for name in told.get("launches", [])
        ],
        failed_launches=[
            ask(ray_node_type_name=name, state=LaunchRequest.Status.FAILED, failed_ts_s=at, details=why)
            for name, at, why in told.get("failed", [])
        ],
        failed_nodes=[node(ray_node_type_name=name, instance_id=name) for name in told.get("gone", [])],
    )


def test_what_is_waited_for_is_one_line() -> None:
    assert nodes.waited_for(cluster()) == ""
    text = nodes.waited_for(
        cluster(
            pending=["gpu_l4", "cpu", "gpu_l4"],
            launches=["gpu_l4"],
            failed=[("gpu_l4", 20, "no permission\n for spot"), ("cpu", 10, "earlier")],
            gone=["cpu"],
        )
    )
    assert text == (
        "asked for and not there: 1 cpu, 4 gpu_l4; the last that could not be had: gpu_l4, no permission for spot; gone: 1 cpu"
    )
    assert "cpu, no reason given" in nodes.waited_for(cluster(failed=[("cpu", None, None)]))


def test_machines_that_were_launched_are_paid_before_they_are_nodes_of_ray() -> None:
    """By the instance and the market that the autoscaler's file names: a machine says neither before it is there."""
    spot = NodeType(name="gpu_l4", resources={"CPU": 8}, labels={"instance": "g6.2xlarge", "market": "spot"}, brought=True)
    like, other = coming(cluster(pending=["gpu_l4", "other"]), [spot])
    assert (like.id, like.names[0]) == ("i0", "g6.2xlarge spot")
    assert (other.id, other.names[:2]) == ("i1", ("g6.2xlarge", "other"))
