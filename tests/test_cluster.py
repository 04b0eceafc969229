"""`cluster.yaml` and `jobs/cluster/` against who will read them: the launcher, botocore, KubeRay, Kubernetes.

Each spoiled copy differs in one thing that a tired person might write.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import kubernetes_validate
import pytest
import tyro
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from geobatch.pipeline.geolocate import GeolocateBucket

ROOT = Path(__file__).parent.parent
Document = dict[str, Any]
SPOT = "gpu_l4"


def launcher() -> Document:
    found: Document = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return found


def manifest() -> Document:
    found: Document = yaml.safe_load((ROOT / "jobs/cluster/nightly.yaml").read_text())
    return found


def check_launcher(config: Document) -> None:
    """Everything that can be known without an account.

    Raises:
        AssertionError, ValueError, ValidationError: of whoever found fault.
    """
    validate_config(prepare_config(copy.deepcopy(config)))
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, kind in config["available_node_types"].items():
        asked = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(asked, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        market = kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        assert market in (None, *shape.members["InstanceMarketOptions"].members["MarketType"].enum)
        tokens = shape.members["MetadataOptions"].members["HttpTokens"].enum
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] in tokens


def check_manifest(document: Document) -> None:
    """The fields of KubeRay, and every pod against Kubernetes' own schema.

    Raises:
        ValidationError, ZoneInfoNotFoundError: of whoever found fault.
    """
    schema = json.loads((ROOT / "tests/golden/kuberay.json").read_text())["schema"]
    jsonschema.Draft202012Validator(schema).validate(document)
    zoneinfo.ZoneInfo(document["spec"]["timeZone"])
    cluster = document["spec"]["jobTemplate"]["rayClusterSpec"]
    for number, group in enumerate([cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, **group["template"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_the_launcher_takes_it() -> None:
    check_launcher(launcher())


def test_kubernetes_takes_it() -> None:
    check_manifest(manifest())


SPOILED_LAUNCHER: dict[str, Callable[[Document], object]] = {
    "an unknown key": lambda c: c.update(max_worker=3),
    "a misspelt key of a type": lambda c: c["available_node_types"]["cpu"].update(max_worker=3),
    "no such head": lambda c: c.update(head_node_type="boss"),
    "half a CPU": lambda c: c["available_node_types"]["cpu"]["resources"].update(CPU=0.5),
    "more at least than at most": lambda c: (c.update(max_workers=1), c["available_node_types"]["cpu"].update(min_workers=2)),
    "no resources": lambda c: c["available_node_types"][SPOT].pop("resources"),
    "docker without a container": lambda c: c["docker"].pop("container_name"),
    "a misspelt instance type": lambda c: c["available_node_types"][SPOT]["node_config"].update(InstanceTyp="g6.2xlarge"),
    "a market that is none": lambda c: c["available_node_types"][SPOT]["node_config"].update(
        InstanceMarketOptions={"MarketType": "spott"}
    ),
    "a number for a name": lambda c: c["available_node_types"]["head"]["node_config"].update(ImageId=7),
    "a disk of words": lambda c: c["available_node_types"]["cpu"]["node_config"].update(
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": "much"}}]
    ),
}


@pytest.mark.parametrize("what", SPOILED_LAUNCHER)
def test_a_spoiled_cluster_is_found(what: str) -> None:
    config = launcher()
    SPOILED_LAUNCHER[what](config)
    with pytest.raises((AssertionError, ValueError, jsonschema.ValidationError)):
        check_launcher(config)


def _job(document: Document) -> Document:
    found: Document = document["spec"]["jobTemplate"]
    return found


def _gpu(document: Document) -> Document:
    found: Document = _job(document)["rayClusterSpec"]["workerGroupSpecs"][1]
    return found


SPOILED_MANIFEST: dict[str, Callable[[Document], object]] = {
    "an older API": lambda d: d.update(apiVersion="ray.io/v1alpha2"),
    "a name with a capital": lambda d: d["metadata"].update(name="Nightly"),
    "a schedule of four words": lambda d: d["spec"].update(schedule="0 22 * *"),
    "a city that has no time": lambda d: d["spec"].update(timeZone="Europe/Atlantis"),
    "a misspelt deadline": lambda d: _job(d).update(activeDeadline=3),
    "a mode that is none": lambda d: _job(d).update(submissionMode="Job"),
    "a number as a start parameter": lambda d: _job(d)["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update(
        {"num-cpus": 0}
    ),
    "no name for a group": lambda d: _gpu(d).pop("groupName"),
    "an unknown field of a group": lambda d: _gpu(d).update(maxReplica=3),
    "a container without an image's name": lambda d: _gpu(d)["template"]["spec"]["containers"][0].update(img="x"),
    "a port that is a word": lambda d: _job(d)["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0].update(
        ports=[{"containerPort": "redis"}]
    ),
    "a toleration without sense": lambda d: _gpu(d)["template"]["spec"]["tolerations"].append({"effekt": "NoSchedule"}),
}


@pytest.mark.parametrize("what", SPOILED_MANIFEST)
def test_a_spoiled_manifest_is_found(what: str) -> None:
    document = manifest()
    SPOILED_MANIFEST[what](document)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError, zoneinfo.ZoneInfoNotFoundError)):
        check_manifest(document)


def test_the_head_works_for_nobody_and_all_else_scales_from_nothing() -> None:
    config = launcher()
    types = AutoscalingConfig(prepare_config(copy.deepcopy(config)), skip_content_hash=True).get_node_type_configs()
    assert types is not None
    assert types["head"].resources["CPU"] == 0 and "--num-cpus=0" in config["head_start_ray_commands"][1]
    workers = {name: each for name, each in types.items() if name != "head"}
    assert all(each.min_worker_nodes == 0 < each.max_worker_nodes for each in workers.values())
    assert any("GPU" in each.resources for each in workers.values()) and "GPU" not in workers["cpu"].resources
    spec = manifest()["spec"]["jobTemplate"]["rayClusterSpec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(group["minReplicas"] == group["replicas"] == 0 for group in spec["workerGroupSpecs"])


def test_spot_comes_before_demand() -> None:
    gpus = {name: kind for name, kind in launcher()["available_node_types"].items() if "GPU" in kind["resources"]}
    spot = [kind for kind in gpus.values() if kind["labels"]["market"] == "spot"]
    dear = [kind for kind in gpus.values() if kind["labels"]["market"] != "spot"]
    assert len({kind["node_config"]["InstanceType"] for kind in spot}) >= 3 and dear
    assert min(kind["priority"] for kind in spot) > max(kind["priority"] for kind in dear)
    assert all("InstanceMarketOptions" in kind["node_config"] for kind in spot)
    assert not any("InstanceMarketOptions" in kind["node_config"] for kind in dear)


def test_the_world_stays_outside() -> None:
    config = launcher()
    for name, kind in config["available_node_types"].items():
        assert kind["node_config"]["SecurityGroupIds"], f"{name}: Ray would make a group that opens SSH to the world"
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    commands = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in commands and commands.count("RAY_AUTH_MODE=token") == 2
    assert config["provider"]["cache_stopped_nodes"] is False
    assert manifest()["spec"]["jobTemplate"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_what_they_run_is_what_the_job_takes() -> None:
    said = [
        _job(manifest())["entrypoint"],
        *re.findall(r"python jobs/geolocate_bucket\.py [^\n]*(?:\n#[^\n]*)?", (ROOT / "cluster.yaml").read_text()),
    ]
    assert len(said) == 2
    for command in said:
        words = shlex.split(command.replace("\\\n", " ").split("\n#\n")[0].replace("\n#", " "))
        config = tyro.cli(GeolocateBucket, args=words[2:])
        assert config.archive.startswith("s3://") and config.output.startswith("s3://")
        assert config.model.startswith("/shared/"), "the driver alone fetches a model from a bucket"


def test_every_pod_has_what_is_mounted() -> None:
    spec = _job(manifest())["rayClusterSpec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        mounted = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
        assert {*mounted} == {volume["name"] for volume in pod["volumes"]}
        assert mounted["cache"] == "/cache" and mounted["shared"] == "/shared"
    options = launcher()["docker"]["run_options"]
    made = " ".join(launcher()["initialization_commands"])
    for option in options:
        if option.startswith("-v "):
            assert option.removeprefix("-v ").split(":")[0] in made, f"Docker would make it as root: {option}"


def test_versions_are_the_package_s() -> None:
    locked = (ROOT / ".lock/requirements.txt").read_text()
    ray = re.search(r"^ray==(\S+)$", locked, re.MULTILINE)
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert ray is not None and version is not None
    docker = (ROOT / "jobs/cluster/Dockerfile").read_text()
    assert f"FROM rayproject/ray:{ray[1]}-py311-gpu" in docker
    spec = manifest()["spec"]["jobTemplate"]["rayClusterSpec"]
    assert spec["rayVersion"] == ray[1]
    images = [launcher()["docker"]["image"]]
    images += [
        group["template"]["spec"]["containers"][0]["image"] for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    ]
    assert {image.rpartition(":")[2] for image in images} == {version[1]}
    copied = [word for line in docker.splitlines() if line.startswith("COPY") for word in line.split()[2:-1]]
    assert all((ROOT / name).exists() for name in copied) and {"geobatch", "jobs", "pyproject.toml"} <= {*copied}
