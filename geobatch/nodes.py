"""What nodes a cluster has, and what nodes it could have.

Could: an autoscaler brings nodes of the types it was told of, by the number it was told. Ray 2.60 lets a driver ask the
cluster for them (`get_cluster_config` in its state), but the answer is written by other builds of Ray only. So they are read
from where the autoscaler itself reads them, on the head node: the file that its process was started with (`ray up`, `ray
start --autoscaling-config`), or Kubernetes' record of the cluster through Ray's own reader (KubeRay). Where neither can be
read nothing is known, and nobody may refuse work for it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from geobatch.layout import UNBOUNDED, Nodes, NodeType
from geobatch.walk import walked

#: What of a node's resources describes its kind; the rest names the node itself or is Ray's own account.
_HEAD, _OWN = "node:__internal_head__", ("node:", "object_store_memory")

#: What a node finds out about its GPUs when it starts; KubeRay's groups do not say it, and may have nodes of several kinds.
_FOUND = "accelerator_type:"

#: Seconds in which the head node must answer.
ANSWERS = 60.0

#: Where a pod reads its own namespace.
SPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_EPSILON = 1e-6


def seen() -> Nodes:
    """What the cluster that this process has joined has and could have.

    Asks the head node; takes 0.01 s on it, 1 to 3 s from elsewhere, where a worker process must start there.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    types, workers, known = _autoscaler(alive)
    return Nodes(types=_counted(alive, types), workers=workers, known=known)


def _counted(alive: list[dict[str, Any]], types: list[NodeType]) -> tuple[NodeType, ...]:
    """The types with what is alive, as `ray.nodes()` tells it: a node of one of them is not counted beside it."""
    found = {each.name: each for each in types}
    others: dict[Any, list[Any]] = {}
    for node in alive:
        head = _HEAD in node["Resources"]
        resources = {name: amount for name, amount in node["Resources"].items() if not name.startswith(_OWN)}
        labels = {name: value for name, value in node.get("Labels", {}).items() if not name.startswith("ray.io/node-")}
        kin = next((each for each in types if not head and _alike(each, resources, labels)), None)
        if kin is not None:  # what is alive may know more of itself than the file: its memory, its GPU's kind
            before = found[kin.name]
            found[kin.name] = replace(kin, resources={**resources, **before.resources}, alive=before.alive + 1)
            continue
        key = (head, tuple(sorted(resources.items())), tuple(sorted(labels.items())))
        others.setdefault(key, ["head" if head else "node", resources, labels, 0])[3] += 1
    there = [NodeType(name=name, resources=has, labels=labels, most=most) for name, has, labels, most in others.values()]
    return (*there, *found.values())


def status() -> Any:
    """What autoscaler and head say of nodes now, a `ray.autoscaler.v2.schema.ClusterStatus`; takes some milliseconds."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    return get_cluster_status(ray.get_runtime_context().gcs_address)


def wait() -> str:
    """`waited_for` of now; empty where no cluster was joined."""
    import ray

    return waited_for(status()) if ray.is_initialized() else ""


def waited_for(told: Any) -> str:
    """Which nodes the autoscaler is bringing or could not bring, out of a `status`; empty where there are none of either."""
    coming = Counter(each.ray_node_type_name for each in told.pending_nodes)
    for each in told.pending_launches:
        coming[each.ray_node_type_name] += each.count
    says = [f"asked for and not there: {_numbers(coming)}"] if coming else []
    if told.failed_launches:
        last = max(told.failed_launches, key=lambda each: each.failed_ts_s or 0)
        why = " ".join((last.details or "no reason given").split())
        says.append(f"the last that could not be had: {last.ray_node_type_name}, {why}")
    if told.failed_nodes:
        says.append(f"gone: {_numbers(Counter(each.ray_node_type_name for each in told.failed_nodes))}")
    return "; ".join(says)


def _numbers(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def unseen(path: Path) -> list[str]:
    """Addresses of the nodes alive on which there is no such file or folder, asked on each of them.

    A node that dies meanwhile is not named. Takes 1 to 3 s, since a worker process starts on every node at once.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) < 2:
        return [] if path.exists() else ["this machine"]
    look = ray.remote(num_cpus=0, max_retries=0)(_there)
    asked = {look.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote(str(path)): node for node in alive}
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWERS)
    blind = []
    for each in answered:
        try:
            blind += [] if ray.get(each) else [str(asked[each]["NodeManagerAddress"])]
        except ray.exceptions.RayError:
            continue
    return sorted(blind)


def _there(path: str) -> bool:
    return Path(path).exists()


def _alike(kind: NodeType, resources: Mapping[str, float], labels: Mapping[str, str]) -> bool:
    """Whether a node is of a configured type: it has the same resources, as far as both speak of them."""
    spoken = {*kind.resources, *(name for name in resources if not name.startswith(_FOUND))} - {"memory"}
    same = all(abs(kind.resources.get(name, 0.0) - resources.get(name, 0.0)) < _EPSILON for name in spoken)
    return same and all(labels.get(name) == value for name, value in kind.labels.items())


def _autoscaler(alive: list[dict[str, Any]]) -> tuple[list[NodeType], int, bool]:
    """Node types that an autoscaler may bring, how many nodes in all, and whether that is known."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    head = next((node["NodeID"] for node in alive if _HEAD in node["Resources"]), None)
    session = Path(ray._private.worker._global_node.get_session_dir_path()).name
    if head is None:
        return [], 0, False
    if head == ray.get_runtime_context().get_node_id():
        told = configured(session)
    else:
        ask = ray.remote(num_cpus=0)(configured).options(scheduling_strategy=On(head, soft=False))
        told = ray.get(ask.remote(session), timeout=ANSWERS)
    return told


def configured(session: str, processes: Path = Path("/proc")) -> tuple[list[NodeType], int, bool]:
    """What the autoscaler of a Ray session on this machine was told; see `_autoscaler`.

    Args:
        session: name of the session's folder, which the autoscaler's command line holds.
        processes: where the kernel shows them.
    """
    name = os.environ.get("RAY_CLUSTER_NAME")
    try:
        if name and os.environ.get("KUBERNETES_SERVICE_HOST"):
            # KubeRay tells its containers the namespace since 1.6 only.
            space = os.environ.get("RAY_CLUSTER_NAMESPACE") or SPACE.read_text().strip()
            from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer
            from ray.autoscaler.v2.instance_manager.config import KubeRayConfigReader

            return types_of(KubeRayConfigReader(AutoscalingConfigProducer(name, space)).get_cached_autoscaling_config())
        for path in processes.glob("[0-9]*/cmdline"):
            words = _words(path)
            flag = next((word for word in words if word.startswith("--autoscaling-config=")), "")
            if flag and any(session in word for word in words):
                from ray.autoscaler.v2.instance_manager.config import FileConfigReader

                return types_of(FileConfigReader(flag.partition("=")[2]).get_cached_autoscaling_config())
    except Exception:  # noqa: BLE001  whatever keeps it from being read, nothing may be refused for it
        return [], 0, False
    return [], 0, True


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").split("\0")
    except OSError:  # it ended meanwhile
        return []


def types_of(config: Any) -> tuple[list[NodeType], int, bool]:
    """The worker types of a `ray.autoscaler.v2` AutoscalingConfig."""
    head = config.get_head_node_type()
    types = [
        NodeType(
            name=name,
            resources={key: float(value) for key, value in each.resources.items() if not key.startswith(_OWN)},
            labels=dict(each.labels),
            most=each.max_worker_nodes - (name == head),
            brought=True,
        )
        for name, each in (config.get_node_type_configs() or {}).items()
    ]
    most = config.get_max_num_worker_nodes()
    return [each for each in types if each.most > 0], UNBOUNDED if most is None else int(most), True


def brought(value: Any) -> Any:
    """`value` with whatever knows where it lies on this node in place of itself: what has a method `here`, wherever it stands
    in dictionaries, lists, tuples and dataclasses."""

    def here(each: Any) -> Any:
        return each.here() if not isinstance(each, type) and callable(getattr(each, "here", None)) else each

    return walked(value, here)
