"""`cluster.yaml` and `jobs/cluster/` against who will read them: the launcher, botocore, KubeRay, Kubernetes.

Each spoiled copy differs in one thing that a tired person might write.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
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
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from geobatch.actors import settings
from geobatch.engine.gallery.record import RECORD
from geobatch.methods.geotoken.locate import NETWORK, river
from geobatch.pipeline.geolocate import GeolocateBucket
from geobatch.pipeline.submit import Submit, split_command
from geobatch.spot import Telling
from tests.methods.geotoken.tiny import model_of

ROOT = Path(__file__).parent.parent
Document = dict[str, Any]
SPOT = "gpu_l4"


def launcher() -> Document:
    found: Document = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return found


def manifest() -> Document:
    found: Document = yaml.safe_load((ROOT / "jobs/cluster/nightly.yaml").read_text())
    return found


@functools.cache
def run_instances() -> Any:
    """What botocore knows of the request that makes an instance; reading EC2's model takes half a second."""
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def check_launcher(config: Document) -> None:
    """Everything that can be known without an account.

    Raises:
        AssertionError, ValueError, ValidationError: of whoever found fault.
    """
    validate_config(prepare_config(copy.deepcopy(config)))
    shape = run_instances()
    for name, kind in config["available_node_types"].items():
        asked = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(asked, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        market = kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        assert market in (None, *shape.members["InstanceMarketOptions"].members["MarketType"].enum)
        tokens = shape.members["MetadataOptions"].members["HttpTokens"].enum
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] in tokens
        assert kind["node_config"]["InstanceType"] in shape.members["InstanceType"].enum
        for disk in kind["node_config"]["BlockDeviceMappings"]:
            ebs = shape.members["BlockDeviceMappings"].member.members["Ebs"]
            assert disk["Ebs"]["VolumeType"] in ebs.members["VolumeType"].enum
        if name != config["head_node_type"]:  # whoever outlives the head ends itself, wholly (`test_alone` runs the script)
            assert "shutdown -h now" in asked["UserData"] and asked["InstanceInitiatedShutdownBehavior"] == "terminate"
        else:
            assert "UserData" not in asked
    check_pools(config)
    check_closed(config)
    check_image(config)


def check_image(config: Document) -> None:
    """A private image is pulled by nodes that have signed in to its registry, in its region, and the rights for it are told."""
    registry = config["docker"]["image"].split("/")[0]
    region = config["provider"]["region"]
    signed_in = [each for each in config["initialization_commands"] if "docker login" in each]
    assert len(signed_in) == 1 and signed_in[0].endswith(f"--password-stdin {registry}")
    assert f"aws ecr get-login-password --region {region} |" in signed_in[0]
    said = (ROOT / "cluster.yaml").read_text()
    assert all(right in said for right in ("GetAuthorizationToken", "BatchGetImage", "GetDownloadUrlForLayer"))


def check_pools(config: Document) -> None:
    """The head works for nobody; all else scales from nothing and goes when idle; what is sold out has others behind it."""
    assert config["auth"].pop("ssh_private_key")  # else Ray makes a pair and overwrites each KeyName; it reads the file itself
    types = AutoscalingConfig(prepare_config(copy.deepcopy(config)), skip_content_hash=True).get_node_type_configs()
    assert types is not None
    assert types["head"].resources["CPU"] == 0 and "--num-cpus=0" in config["head_start_ray_commands"][1]
    module, _, name = config["provider"]["module"].rpartition(".")
    assert config["provider"]["type"] == "external" and issubclass(getattr(importlib.import_module(module), name), Telling)
    assert "AUTOSCALER_MAX_LAUNCH_BATCH=1 " in config["head_start_ray_commands"][1]  # a request for five may bring two
    workers = {name: each for name, each in types.items() if name != "head"}
    assert all(each.min_worker_nodes == 0 < each.max_worker_nodes for each in workers.values())
    assert 0 < config["idle_timeout_minutes"] <= 15
    kinds = {name: kind for name, kind in config["available_node_types"].items() if name != "head"}
    check_fallback([kind for kind in kinds.values() if "GPU" not in kind["resources"]], 2)
    check_fallback([kind for kind in kinds.values() if "GPU" in kind["resources"]], 3)
    assert all(kind["resources"]["CPU"] >= 4 for kind in kinds.values())
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["KeyName"]
        options = kind["node_config"].get("InstanceMarketOptions", {})
        assert (options.get("MarketType") == "spot") == (kind.get("labels", {}).get("market") == "spot")


def check_fallback(kinds: list[Document], types: int) -> None:
    """So many instance types as spot, each of a rank of its own, and on demand last; all offer the same, memory too."""
    spot = [kind for kind in kinds if kind["labels"]["market"] == "spot"]
    dear = [kind for kind in kinds if kind["labels"]["market"] == "on-demand"]
    assert len(spot) + len(dear) == len(kinds) and dear
    assert len({kind["node_config"]["InstanceType"] for kind in spot}) >= types
    assert len({kind["priority"] for kind in kinds}) == len(kinds)
    assert min(kind["priority"] for kind in spot) > max(kind["priority"] for kind in dear)
    assert all("memory" in kind["resources"] and kind["resources"] == kinds[0]["resources"] for kind in kinds)


def check_closed(config: Document) -> None:
    """The world stays outside, and each node has no more rights than its role's."""
    for name, kind in config["available_node_types"].items():
        asked = kind["node_config"]
        assert asked["SecurityGroupIds"], f"{name}: Ray would make a group that opens SSH to the world"
        assert asked["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 2}
        role = "geobatch-head" if name == config["head_node_type"] else "geobatch-worker"
        assert asked["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{role}")
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert "--dashboard-host=127.0.0.1" in commands[1]
    assert [command for command in commands if "ray start" in command and "RAY_AUTH_MODE=token" not in command] == []
    assert "/home/ray/.ray/auth_token" in config["file_mounts"]
    assert config["provider"]["cache_stopped_nodes"] is False
    assert config["setup_commands"] == config["worker_setup_commands"] == []  # Ray's defaults would install another Ray


def check_manifest(document: Document) -> None:
    """The fields of KubeRay, and every pod against Kubernetes' own schema.

    Raises:
        ValidationError, ZoneInfoNotFoundError: of whoever found fault.
    """
    schema = json.loads((ROOT / "tests/golden/kuberay.json").read_text())["schema"]
    jsonschema.Draft202012Validator(schema).validate(document)
    zoneinfo.ZoneInfo(document["spec"]["timeZone"])
    job = document["spec"]["jobTemplate"]
    cluster = job["rayClusterSpec"]
    for number, group in enumerate([cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]):
        about = {"name": f"pod-{number}", **group["template"]["metadata"]}
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"], "metadata": about}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        check_pod(group["template"]["spec"])
        assert about["annotations"] == {"karpenter.sh/do-not-disrupt": "true"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["headGroupSpec"]["template"]["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
    groups = cluster["workerGroupSpecs"]
    assert all(group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"] for group in groups)
    gpus = [group for group in groups if "nvidia.com/gpu" in limits(group)]
    assert gpus and len(gpus) < len(groups)
    for group in groups:
        check_market(group["template"]["spec"]["affinity"]["nodeAffinity"])
    assert cluster["authOptions"] == {"mode": "token"} and cluster["enableInTreeAutoscaling"] is True
    assert job["shutdownAfterJobFinishes"] is True and job["backoffLimit"] == 0
    # A wait for spot capacity ends by the night's own limit, before Ray Data takes it for a hang.
    waits = inspect.signature(settings).parameters["no_progress_hours"].default * 3600
    assert 0 < job["activeDeadlineSeconds"] <= waits


def limits(group: Document) -> Document:
    found: Document = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return found


def check_pod(pod: Document) -> None:
    """What is mounted is there; models are fetched to a disk of the node's own, asked for and never over its limit."""
    mounted = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert {*mounted} == {volume["name"] for volume in pod["volumes"]}
    assert mounted["cache"] == "/cache" and pod["serviceAccountName"].startswith("geobatch-")
    volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
    disks = {name: gibibytes(volume["sizeLimit"]) for name, volume in volumes.items() if volume.get("medium") != "Memory"}
    container = pod["containers"][0]
    assert gibibytes(container["resources"]["requests"]["ephemeral-storage"]) >= sum(disks.values())
    cache = int({each["name"]: each["value"] for each in container["env"]}["GEOBATCH_CACHE_BYTES"])
    assert 0.9 <= cache / 2**30 / disks["cache"] <= 0.96


def gibibytes(size: str) -> float:
    assert size.endswith("Gi")
    return float(size[:-2])


def check_market(affinity: Document) -> None:
    """Three types of instances; spot is preferred, on demand allowed."""
    must = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]["matchExpressions"]
    asked = {each["key"]: each["values"] for each in must if each["operator"] == "In"}
    assert len(asked["node.kubernetes.io/instance-type"]) >= 3
    assert asked["karpenter.sh/capacity-type"] == ["spot", "on-demand"]
    liked = affinity["preferredDuringSchedulingIgnoredDuringExecution"][0]["preference"]["matchExpressions"]
    assert liked == [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]}]


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
    "a disk of no kind": lambda c: c["available_node_types"]["cpu"]["node_config"]["BlockDeviceMappings"][0]["Ebs"].update(
        VolumeType="gp33"
    ),
    "an instance that there is not": lambda c: c["available_node_types"][SPOT]["node_config"].update(InstanceType="g6.2xlagre"),
    "a head that works": lambda c: c["available_node_types"]["head"]["resources"].update(CPU=4),
    "a head that Ray lets work": lambda c: c["head_start_ray_commands"].__setitem__(
        1, c["head_start_ray_commands"][1].replace("--num-cpus=0", "")
    ),
    "nodes that never go": lambda c: c.update(idle_timeout_minutes=600),
    "a pool that is always there": lambda c: c["available_node_types"]["cpu"].update(min_workers=1),
    "no CPU pool": lambda c: [c["available_node_types"].pop(name) for name in ("cpu", "cpu_amd", "cpu_on_demand")],
    "one type of spot that reads": lambda c: c["available_node_types"].pop("cpu_amd"),
    "no reader on demand": lambda c: c["available_node_types"].pop("cpu_on_demand"),
    "a type that offers more": lambda c: c["available_node_types"]["gpu_l40s"]["resources"].update(memory=48000000000),
    "a type of which Ray would find out its memory": lambda c: c["available_node_types"]["cpu"]["resources"].pop("memory"),
    "a provider that goes on asking": lambda c: c["provider"].update(type="aws"),
    "many in one request": lambda c: c["head_start_ray_commands"].__setitem__(
        1, c["head_start_ray_commands"][1].replace("MAX_LAUNCH_BATCH=1", "MAX_LAUNCH_BATCH=5")
    ),
    "a key pair whose key nobody has": lambda c: c["auth"].pop("ssh_private_key"),
    "on demand first": lambda c: c["available_node_types"]["gpu_on_demand"].update(priority=99),
    "two pools of one rank": lambda c: c["available_node_types"]["gpu_a10g"].update(priority=30),
    "spot by name alone": lambda c: c["available_node_types"][SPOT]["node_config"].pop("InstanceMarketOptions"),
    "one type of instance": lambda c: [
        kind["node_config"].update(InstanceType="g6.2xlarge")
        for kind in c["available_node_types"].values()
        if "GPU" in kind["resources"]
    ],
    "SSH open to the world": lambda c: c["available_node_types"]["head"]["node_config"].pop("SecurityGroupIds"),
    "metadata without a token": lambda c: c["available_node_types"]["cpu"]["node_config"].update(
        MetadataOptions={"HttpTokens": "optional", "HttpPutResponseHopLimit": 2}
    ),
    "a worker with the head's rights": lambda c: c["available_node_types"]["cpu"]["node_config"].update(
        IamInstanceProfile={"Arn": "arn:aws:iam::ACCOUNT:instance-profile/geobatch-head"}
    ),
    "no rights by profile": lambda c: c["available_node_types"][SPOT]["node_config"].pop("IamInstanceProfile"),
    "a dashboard for everybody": lambda c: c["head_start_ray_commands"].__setitem__(
        1, c["head_start_ray_commands"][1].replace("127.0.0.1", "0.0.0.0")
    ),
    "a node without the token": lambda c: c["worker_start_ray_commands"].__setitem__(
        1, c["worker_start_ray_commands"][1].replace("RAY_AUTH_MODE=token", "")
    ),
    "a token that is not brought": lambda c: c["file_mounts"].clear(),
    "spot that is kept": lambda c: c["provider"].update(cache_stopped_nodes=True),
    "an image that nobody may pull": lambda c: c["initialization_commands"].pop(),
    "another registry than is signed in to": lambda c: c["docker"].update(
        image="OTHER.dkr.ecr.us-west-2.amazonaws.com/g:0.1.0"
    ),
    "a worker that outlives its head": lambda c: c["available_node_types"]["gpu_on_demand"]["node_config"].pop("UserData"),
    "a worker that is kept, stopped": lambda c: c["available_node_types"]["gpu_on_demand"]["node_config"].pop(
        "InstanceInitiatedShutdownBehavior"
    ),
    "a behaviour that is none": lambda c: c["available_node_types"]["cpu"]["node_config"].update(
        InstanceInitiatedShutdownBehavior="vanish"
    ),
    "a head that ends itself": lambda c: c["available_node_types"]["head"]["node_config"].update(UserData="shutdown -h now"),
    "another Ray": lambda c: c.update(setup_commands=["pip install ray"]),
}


@pytest.mark.parametrize("what", SPOILED_LAUNCHER)
def test_a_spoiled_cluster_is_found(what: str) -> None:
    config = launcher()
    SPOILED_LAUNCHER[what](config)
    with pytest.raises((AssertionError, ValueError, KeyError, jsonschema.ValidationError)):
        check_launcher(config)


def _job(document: Document) -> Document:
    found: Document = document["spec"]["jobTemplate"]
    return found


def _gpu(document: Document) -> Document:
    found: Document = _job(document)["rayClusterSpec"]["workerGroupSpecs"][1]
    return found


def _container(document: Document) -> Document:
    found: Document = _gpu(document)["template"]["spec"]["containers"][0]
    return found


def _head(document: Document) -> Document:
    found: Document = _job(document)["rayClusterSpec"]["headGroupSpec"]["template"]
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
    "a head that works": lambda d: _job(d)["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": "4"}),
    "a pool that is always there": lambda d: _gpu(d).update(minReplicas=1),
    "no autoscaler": lambda d: _job(d)["rayClusterSpec"].update(enableInTreeAutoscaling=False),
    "no token": lambda d: _job(d)["rayClusterSpec"].pop("authOptions"),
    "a cluster that stays": lambda d: _job(d).update(shutdownAfterJobFinishes=False),
    "another cluster for a night that is judged": lambda d: _job(d).update(backoffLimit=2),
    "a night without end": lambda d: _job(d).update(activeDeadlineSeconds=10**6),
    "no GPU in its pool": lambda d: [
        _gpu(d)["template"]["spec"]["containers"][0]["resources"][part].pop("nvidia.com/gpu") for part in ("requests", "limits")
    ],
    "only on demand": lambda d: _gpu(d)["template"]["spec"]["affinity"]["nodeAffinity"].pop(
        "preferredDuringSchedulingIgnoredDuringExecution"
    ),
    "a misspelt operator": lambda d: _gpu(d)["template"]["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"][0]["matchExpressions"][0].update(operator="Inn"),
    "a volume that is mounted and not there": lambda d: _gpu(d)["template"]["spec"]["volumes"].pop(),
    "no cache": lambda d: [
        _gpu(d)["template"]["spec"]["volumes"].pop(0),
        _gpu(d)["template"]["spec"]["containers"][0]["volumeMounts"].pop(0),
    ],
    "a head on spot": lambda d: _head(d)["spec"].pop("nodeSelector"),
    "a head that is moved": lambda d: _head(d)["metadata"].pop("annotations"),
    "a worker that is moved": lambda d: _gpu(d)["template"].pop("metadata"),
    "an annotation that is no word": lambda d: _gpu(d)["template"]["metadata"]["annotations"].update(
        {"karpenter.sh/do-not-disrupt": True}
    ),
    "a disk that nobody asked for": lambda d: _container(d)["resources"]["requests"].pop("ephemeral-storage"),
    "a disk smaller than its cache": lambda d: _container(d)["resources"]["requests"].update({"ephemeral-storage": "140Gi"}),
    "a cache that knows no limit": lambda d: _container(d).pop("env"),
    "a cache over its limit": lambda d: _container(d)["env"][0].update(value="162000000000"),
    "rights of nobody": lambda d: _gpu(d)["template"]["spec"].pop("serviceAccountName"),
}


@pytest.mark.parametrize("what", SPOILED_MANIFEST)
def test_a_spoiled_manifest_is_found(what: str) -> None:
    document = manifest()
    SPOILED_MANIFEST[what](document)
    faults = (jsonschema.ValidationError, kubernetes_validate.ValidationError, zoneinfo.ZoneInfoNotFoundError)
    with pytest.raises((*faults, AssertionError, KeyError)):
        check_manifest(document)


def test_what_they_run_is_what_the_jobs_take(tmp_path: Path) -> None:
    """The manifest's command, and the one that the launcher's file tells to type: a submission and what it submits.

    Both ask for GPUs, and a network that was given some computes there.
    """
    model_of().save(tmp_path / "model" / NETWORK)
    (tmp_path / RECORD).write_text('{"fingerprint": "f"}')
    script = shlex.split(_job(manifest())["entrypoint"])
    assert script[:2] == ["bash", "-c"]
    nightly = re.search(r"do (python jobs/\S+ .*?);", script[2])
    assert nightly is not None
    told = re.search(r"python jobs/submit\.py .*?(?=\n#\n)", (ROOT / "cluster.yaml").read_text(), re.DOTALL)
    assert told is not None
    words = shlex.split(told[0].replace("\\\n#", " "))
    own, command = split_command(words[2:])
    assert tyro.cli(Submit, args=own).address == "http://127.0.0.1:8265"
    for words in (command, shlex.split(nightly[1].replace("$ends", "06:00"))):
        assert words[:2] == ["python", "jobs/geolocate_bucket.py"]
        config = tyro.cli(GeolocateBucket, args=words[2:])
        assert all(each.startswith("s3://") for each in (config.archive, config.output, config.model))
        assert config.max_rejected < 1, "nodes that may not read would end a night with 0"
        stages = {each.stage.__name__: each for each in river(tmp_path / "model", tmp_path, config.geotoken, workers=2)}
        assert [(each.gpus, each.make["device"]) for each in (stages["Embed"], stages["Sample"])] == [(0.5, "cuda")] * 2


def test_what_is_mounted_into_the_container_is_made_on_the_node() -> None:
    made = " ".join(launcher()["initialization_commands"])
    mounts = [option.split()[1] for option in launcher()["docker"]["run_options"] if option.startswith("-v ")]
    assert {mount.split(":")[1] for mount in mounts} == {"/cache"}
    for mount in mounts:
        assert mount.split(":")[0] in made, f"Docker would make it as root: {mount}"
    assert "GEOBATCH_CACHE=/cache" in (ROOT / "jobs/cluster/Dockerfile").read_text()


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
    extra = re.search(r"^gpu = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert extra is not None
    for asked in map(Requirement, json.loads(extra[1])):  # nothing is the newest there is
        pins = [
            *(each.version for each in asked.specifier if each.operator == "=="),
            *re.findall(rf"{asked.name}==(\S+?);", docker),
        ]
        assert len(pins) == 1 and pins[0] in asked.specifier
    copied = [word for line in docker.splitlines() if line.startswith("COPY") for word in line.split()[2:-1]]
    assert all((ROOT / name).exists() for name in copied) and {"geobatch", "jobs", "pyproject.toml"} <= {*copied}
