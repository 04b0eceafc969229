"""Joining a cluster, as far as it can be seen without one: what is said to Ray, and what is refused before."""

from __future__ import annotations

import json
from typing import Any

import pytest
import ray
from ray.runtime_env.runtime_env import _merge_runtime_env

from geobatch import joining
from geobatch.errors import UserError
from geobatch.joining import SILENCE, start


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `ray.init` was called with, which does nothing here."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **given: calls.append(given))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    for name in (*SILENCE, "RAY_DATA_DISABLE_PROGRESS_BARS", "RAY_BACKEND_LOG_LEVEL", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "")  # so that what is set here is taken back
    return calls


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "anyscale://cluster"])
@pytest.mark.parametrize("by", ["--address", "RAY_ADDRESS"])
def test_a_url_is_refused_in_one_line_that_says_what_to_give(
    address: str, by: str, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError) as raised:
        start(address if by == "--address" else None, cpus=1, processes=1)
    assert address in str(raised.value) and "HOST:6379" in str(raised.value) and "submit.py" in str(raised.value)
    assert "\n" not in str(raised.value) and not told


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "[::1]:6379"])
def test_a_cluster_is_joined_quietly(address: str, told: list[dict[str, Any]]) -> None:
    start(address, cpus=1, processes=1)
    assert told[0]["address"] == address and told[0]["runtime_env"] == {"env_vars": SILENCE}


def test_what_a_submission_says_of_the_environment_is_not_said_again(
    told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray refuses to merge two environments that name the same variable, whatever its value."""
    for theirs in ({"env_vars": {"DO_NOT_TRACK": "1", "A": "b"}}, {"env_vars": SILENCE}, {"working_dir": "gcs://x.zip"}, {}):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": theirs, "metadata": {}}))
        start("auto", cpus=1, processes=1)
        merged = _merge_runtime_env(theirs, told[-1]["runtime_env"])
        assert merged is not None and merged["env_vars"].keys() >= joining.SILENCE.keys()
    if _merge_runtime_env({"env_vars": {"DO_NOT_TRACK": "1"}}, {"env_vars": SILENCE}) is not None:
        pytest.fail("Ray merges them by now: geobatch.joining need not leave any out")
