"""AWS's machines for Ray's autoscaler, which goes on to the next node type where one is sold out.

Ray 2.60's autoscaler (v2) ranks node types that suit a demand equally by how long ago each failed it, then by `priority`. But
of a failure it learns only where an instance was given and never came up. An instance that EC2 refuses to give (spot capacity
that is sold out, a quota) counts as none, so the type of the highest priority is asked for again for ever and the others never
come. `Spot` is Ray's own provider of AWS which tells the autoscaler of refusals too: a refused type ranks last, its rank
recovers within ten minutes (RAY_AUTOSCALER_AVAILABILITY_RECOVERY_S), and the first of its nodes to run restores it.

`cluster.yaml` names it as an external provider, so Ray loads it where `ray up` is typed and beside the autoscaler on the head.

An account that never used spot lacks the role for it, and all of spot is refused: to go on to the next type would be to pay for
on-demand machines because of it. Nothing is passed over then; the run waits, and its deadline ends it. Other rights may be
lacking for one type alone, which is passed over. The autoscaler's log says either.

What must hold for it: types that stand in for each other offer equal `resources`, memory included, since Ray compares how
well a node would be used before it asks which type failed.

Not covered: a type that is given and taken away again while it boots; Ray counts that only after an hour.
"""

from __future__ import annotations

import logging
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE
from ray.autoscaler.v2 import autoscaler
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.core.generated.instance_manager_pb2 import InstanceUpdateEvent

#: Words in EC2's codes that blame the number of requests, not the type.
_TOO_FAST = ("RequestLimitExceeded", "Throttl")

#: How those codes of EC2 begin that blame the account, and of them those that blame it for all of spot.
_NO_RIGHT, _NO_SPOT = ("AuthFailure", "UnauthorizedOperation"), "AuthFailure.ServiceLinkedRole"

_log = logging.getLogger(__name__)


class Told(CloudResourceMonitor):
    """The autoscaler's memory of what failed, with refusals in it.

    Args:
        refused: names of node types, as they are refused.
    """

    def __init__(self, refused: SimpleQueue[str]) -> None:
        super().__init__()
        self._refused = refused

    def get_resource_availabilities(self) -> dict[str, float]:
        """As Ray's own."""
        self._listen()
        found: dict[str, float] = super().get_resource_availabilities()
        return found

    def get_recoverable_resource_availabilities(self) -> dict[str, float]:
        """As Ray's own."""
        self._listen()
        found: dict[str, float] = super().get_recoverable_resource_availabilities()
        return found

    def _listen(self) -> None:
        while True:
            try:
                name = self._refused.get_nowait()
            except Empty:
                return
            self.allocation_timeout(InstanceUpdateEvent(instance_type=name))


class Telling(NodeProvider):
    """Mixed into a provider: the autoscaler made after it in this process learns which node types it refuses."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._refused: SimpleQueue[str] = SimpleQueue()
        # Ray has no door for it: the autoscaler makes its provider first, then its memory, by this name.
        autoscaler.CloudResourceMonitor = partial(Told, self._refused)

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: dict[str, float], labels: dict[str, str]
    ) -> Any:
        """As the provider's own, which raises what it raises."""
        kind = tags[TAG_RAY_USER_NODE_TYPE]
        try:
            return super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
        except NodeLaunchException as error:
            code = str(error.category)
            if code.startswith(_NO_RIGHT):
                _log.error(
                    "EC2 refuses %s (%s): mend the rights or make spot's role, as the top of cluster.yaml says", kind, code
                )
            if not any(word in code for word in (*_TOO_FAST, _NO_SPOT)):
                self._refused.put(kind)  # before Ray hears of it and plans anew
            raise


class Spot(Telling, AWSNodeProvider):
    """What `cluster.yaml` names."""
