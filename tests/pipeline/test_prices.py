"""Prices: the table, a user's file over it, spot, and every way to get the file wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from geobatch.errors import UserError
from geobatch.pipeline.machines import named
from geobatch.pipeline.prices import HOURS, SPOT_SHARE, Prices, dated, load
from geobatch.store import Store

ROOT = Path(__file__).parent.parent.parent


def test_spot_is_a_share_of_on_demand_unless_it_has_a_price() -> None:
    assert Prices().of("g6.2xlarge") == HOURS["g6.2xlarge"] == 0.9776
    assert Prices().of("g6.2xlarge spot") == pytest.approx(0.9776 * SPOT_SHARE)
    assert Prices(own={"g6.2xlarge spot": 0.3}).of("g6.2xlarge spot") == 0.3
    assert Prices(own={"g6.2xlarge": 0.5}, spot_share=0.2).of("g6.2xlarge spot") == pytest.approx(0.1)
    assert Prices().of("z9.enormous") is None and Prices().of("this machine") is None


def test_a_machine_goes_by_the_name_that_has_a_price() -> None:
    names = ("g6.2xlarge spot", "gpu_l4", "8 CPU + 1 GPU")
    assert Prices().kind(names) == "g6.2xlarge spot"
    assert Prices(own={"gpu_l4": 0.4}).kind(names) == "gpu_l4"
    assert Prices(own={"8 CPU + 1 GPU": 0.4}).kind(names) == "8 CPU + 1 GPU"
    assert Prices().kind(("z9.enormous", "8 CPU")) == "z9.enormous"


def test_a_file_goes_before_the_table(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"hours": {"m6i.large": 1, "this machine": 0.05}, "spot_share": 0.3, "date": "2026-11-01"}))
    prices = load(Store(), str(file))
    assert (prices.of("m6i.large"), prices.of("this machine"), prices.of("m6i.xlarge")) == (1.0, 0.05, 0.192)
    assert prices.of("m6i.xlarge spot") == pytest.approx(0.192 * 0.3)
    assert (prices.date, prices.source) == ("2026-11-01", str(file))
    assert load(Store(), None) == Prices()


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", 'has no "hours"'),
        ('{"hours": 3}', 'has no "hours"'),
        ('{"hours": {"a": "dear"}}', "'a' is 'dear'"),
        ('{"hours": {"a": -1}}', "'a' is -1"),
        ('{"hours": {"a": NaN}}', "'a' is nan"),
        ('{"hours": {"a": true}}', "'a' is True"),
        ('{"hours": {}, "spot_share": null}', "'spot_share' is None"),
        ('{"hours": {}, "currency": "EUR"}', "holds 'currency'"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, content: str, wrong: str) -> None:
    file = tmp_path / "prices.json"
    file.write_text(content)
    with pytest.raises(UserError) as raised:
        load(Store(), str(file))
    assert wrong in str(raised.value) and "\n" not in str(raised.value)


def test_prices_without_a_date_say_so(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"hours": {"this machine": 0.05}}')
    for prices in (Prices(), load(Store(), str(file))):
        assert dated(prices.date) == "prices without a date"
    file.write_text('{"hours": {}, "date": "2026-11"}')
    assert dated(load(Store(), str(file)).date) == "prices of 2026-11"


def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--prices .* cannot be read"):
        load(Store(), str(tmp_path / "none.json"))


def test_every_instance_of_the_nightly_manifest_has_a_price() -> None:
    text = (ROOT / "jobs/cluster/nightly.yaml").read_text()
    named = [name for each in re.findall(r"instance-type, operator: In, values: \[(.*?)\]", text) for name in each.split(", ")]
    assert len(named) == 6 and [name for name in named if Prices().of(name) is None] == []


def test_every_group_of_the_nightly_manifest_has_a_price_in_the_file_that_it_tells_of(tmp_path: Path) -> None:
    """By what a pod says of itself: its group and its resources, never its node's type."""
    text = (ROOT / "jobs/cluster/nightly.yaml").read_text()
    told = re.search(r'^# +(\{"hours": .*\})$', text, re.MULTILINE)
    assert told is not None and "--prices s3://" in yaml.safe_load(text)["spec"]["jobTemplate"]["entrypoint"]
    (tmp_path / "prices.json").write_text(told[1])
    prices = load(Store(), str(tmp_path / "prices.json"))
    groups = yaml.safe_load(text)["spec"]["jobTemplate"]["rayClusterSpec"]["workerGroupSpecs"]
    for group in ("headgroup", *(each["groupName"] for each in groups)):
        kind = prices.kind(named({"ray.io/node-group": group}, "", group, {"CPU": 15}))
        assert kind == group and prices.of(kind) is not None


def test_every_node_of_the_cluster_file_has_a_price() -> None:
    """By what a node of it says of itself once it is up: its labels, its group, its resources."""
    types = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    for group, told in types.items():
        names = named(told.get("labels", {}), "", group, told["resources"])
        kind = Prices().kind(names)
        assert Prices().of(kind) is not None, (
            f"{group}: give it a label instance, which is {told['node_config']['InstanceType']}"
        )
        assert kind.removesuffix(" spot") == told["node_config"]["InstanceType"]
        assert kind.endswith(" spot") == ("InstanceMarketOptions" in told["node_config"])
