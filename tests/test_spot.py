"""AWS's provider that tells of refusals, over `cluster.yaml`'s own types: Ray's launcher and scheduler above, moto below."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError
from moto import mock_aws
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.v2 import autoscaler
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.core.generated.autoscaler_pb2 import ResourceRequest, ResourceRequestByCount
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

from geobatch import spot

ROOT = Path(__file__).parent.parent
GPUS = ["gpu_l4", "gpu_a10g", "gpu_l40s", "gpu_on_demand"]
CPUS = ["cpu", "cpu_amd", "cpu_on_demand"]


class Cloud:
    """The launcher's settings as `ray up` completes them, and the autoscaler's parts around the provider that they name."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = AutoscalingConfig(config, skip_content_hash=True)
        self.provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
        self.memory = autoscaler.CloudResourceMonitor()
        self.adapter = NodeProviderAdapter(self.provider, self)
        self.ask = self.provider.ec2_fail_fast.create_instances
        self.provider.ec2_fail_fast.create_instances = self._create
        self.sold_out: dict[tuple[str, bool], str] = {}

    def get_cached_autoscaling_config(self) -> AutoscalingConfig:
        """As Ray's reader of a file."""
        return self.config

    def _create(self, **asked: Any) -> Any:
        spot = "InstanceMarketOptions" in asked
        if code := self.sold_out.get((asked["InstanceType"], spot)):
            raise ClientError({"Error": {"Code": code, "Message": "none left"}}, "RunInstances")
        return self.ask(**asked)

    def chosen(self, **demand: float) -> str:
        """The type of node that Ray's scheduler would bring for one actor."""
        wanted = ResourceRequestByCount(request=ResourceRequest(resources_bundle=demand), count=1)
        reply = ResourceDemandScheduler(None).schedule(
            SchedulingRequest(
                disable_launch_config_check=True,
                node_type_configs=self.config.get_node_type_configs() or {},
                max_num_nodes=self.config.get_max_num_nodes(),
                resource_requests=[wanted],
                cloud_resource_availabilities=self.memory.get_resource_availabilities(),
                recoverable_resource_availabilities=self.memory.get_recoverable_resource_availabilities(),
            )
        )
        found = [each.instance_type for each in reply.to_launch if each.instance_type != self.config.get_head_node_type()]
        assert len(found) == 1
        return str(found[0])

    def launch(self, kind: str, code: str | None = None) -> None:
        """Asks for one such node, which EC2 refuses with the code."""
        about = self.config.get_cloud_node_config(kind)
        key = (about["InstanceType"], "InstanceMarketOptions" in about)
        self.sold_out = {key: code} if code else {}
        self.adapter._launch_nodes_by_type(kind, 1, "request")
        errors = [str(each.__cause__) for each in self.adapter.poll_errors()]
        assert all(code in each for each in errors) if code else not errors, errors


@pytest.fixture(scope="module")
def bootstrapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """`cluster.yaml` as `ray up` completes it, once: moto's EC2 takes seconds to come."""
    folder = tmp_path_factory.mktemp("launcher")
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setattr(tempfile, "tempdir", str(folder))  # where the launcher keeps what it found out
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        yield _bootstrap_config(launcher(folder), no_config_cache=True)


@pytest.fixture
def cloud(bootstrapped: dict[str, Any], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A cluster without nodes, its settings spoiled as a test asks for it."""
    monkeypatch.setattr(autoscaler, "CloudResourceMonitor", autoscaler.CloudResourceMonitor)
    config = deepcopy(bootstrapped)
    getattr(request, "param", dict)(config)
    made = Cloud(config)
    yield made
    if left := made.provider.non_terminated_nodes({}):
        made.provider.terminate_nodes(left)


def launcher(folder: Path) -> dict[str, Any]:
    """`cluster.yaml` with the lines to change changed."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    ec2 = boto3.client("ec2", config["provider"]["region"])
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="geobatch", Description="all", VpcId=vpc)["GroupId"]
    key = folder / "geobatch.pem"
    key.write_text(ec2.create_key_pair(KeyName="geobatch")["KeyMaterial"])
    config["auth"]["ssh_private_key"] = str(key)
    image = ec2.describe_images()["Images"][0]["ImageId"]
    profiles = boto3.client("iam")
    for each in config["available_node_types"].values():
        name = each["node_config"]["IamInstanceProfile"]["Arn"].rpartition("/")[2]
        with suppress(profiles.exceptions.EntityAlreadyExistsException):
            profiles.create_instance_profile(InstanceProfileName=name)
        arn = profiles.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Arn"]
        each["node_config"].update(SecurityGroupIds=[group], ImageId=image, IamInstanceProfile={"Arn": arn})
    return config


def test_a_type_that_is_sold_out_is_passed_over_for_the_next_by_priority_and_on_demand_comes_last(cloud: Cloud) -> None:
    for demand, order in (({"CPU": 1, "GPU": 0.5}, GPUS), ({"CPU": 1}, CPUS), ({"CPU": 1, "GPU": 1, "memory": 6e9}, GPUS)):
        cloud.memory = autoscaler.CloudResourceMonitor()
        for kind in order:
            assert cloud.chosen(**demand) == kind
            cloud.launch(kind, "InsufficientInstanceCapacity")
        assert cloud.chosen(**demand) == order[0], "all are refused: the one that was refused the longest ago"
    assert not cloud.provider.non_terminated_nodes({})


def test_what_is_given_is_asked_for_again(cloud: Cloud) -> None:
    cloud.launch("gpu_l4", "MaxSpotInstanceCountExceeded")
    assert cloud.chosen(CPU=1, GPU=1) == "gpu_a10g"
    cloud.launch("gpu_l4")
    assert len(cloud.provider.non_terminated_nodes({})) == 1
    running = InstanceUpdateEvent(instance_type="gpu_l4", new_instance_status=Instance.RAY_RUNNING)
    cloud.memory.notify([running])
    assert cloud.chosen(CPU=1, GPU=1) == "gpu_l4"


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "Throttling"])
def test_being_asked_too_often_is_no_fault_of_a_type(cloud: Cloud, code: str) -> None:
    cloud.launch("gpu_l4", code)
    assert cloud.chosen(CPU=1, GPU=1) == "gpu_l4"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes to the autoscaler's log; a process that other tests have used may have loggers shut off."""
    lines: list[str] = []
    monkeypatch.setattr(spot, "_log", SimpleNamespace(error=lambda text, *told: lines.append(text % told)))
    return lines


def test_a_want_of_spots_role_brings_nothing_dearer_and_says_what_to_do(cloud: Cloud, log: list[str]) -> None:
    code = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
    for _ in GPUS:
        cloud.launch("gpu_l4", code)
        assert cloud.chosen(CPU=1, GPU=1) == "gpu_l4"
    assert len(log) == len(GPUS) and f"gpu_l4 ({code}): mend the rights or make spot's role" in log[0]
    top = (ROOT / "cluster.yaml").read_text().split("cluster_name:")[0]
    assert "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com" in top


def test_a_type_that_nobody_granted_is_passed_over_and_said(cloud: Cloud, log: list[str]) -> None:
    cloud.launch("gpu_l4", "UnauthorizedOperation")
    assert cloud.chosen(CPU=1, GPU=1) == GPUS[1] != "gpu_l4"
    assert "gpu_l4 (UnauthorizedOperation): mend the rights" in log[0]


def _rays_own(config: dict[str, Any]) -> None:
    config["provider"]["type"] = "aws"


def _more_memory(config: dict[str, Any]) -> None:
    del config["available_node_types"]["gpu_l40s"]["resources"]["memory"]


@pytest.mark.parametrize(("cloud", "then"), [(_rays_own, "gpu_l4"), (_more_memory, "gpu_on_demand")], indirect=["cloud"])
def test_without_it_or_with_unequal_types_the_third_does_not_come(cloud: Cloud, then: str) -> None:
    for kind in GPUS[:2]:
        cloud.launch(kind, "InsufficientInstanceCapacity")
    assert cloud.chosen(CPU=1, GPU=1, memory=6e9) == then
