"""What a run does between its passes and around one, as far as it needs no cluster."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from geobatch.actors import Hands
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.gate import Gate
from geobatch.errors import UserError
from geobatch.pipeline import flow as flowing
from geobatch.pipeline.flow import Flow
from geobatch.pipeline.journal import Journal
from geobatch.pipeline.watch import Onlooker, Watching
from geobatch.progress import Progress
from geobatch.service import Service
from geobatch.sink import Run
from geobatch.sink.lease import Lease
from geobatch.stage import Stage
from geobatch.store import Store, StoreConfig


class Raises(Onlooker):
    def enough(self) -> str | None:
        raise UserError("the price of a machine is not known; name it")


def test_what_a_watch_raised_is_what_ends_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass is broken off by force, and all that Ray says is that actors died."""
    broken_off = threading.Event()

    def river(tasks: list[pa.Table], hands: list[Hands], cut: Callable[[Callable[[bool], None]], None]) -> Iterator[pa.Table]:
        cut(lambda force: broken_off.set())
        assert broken_off.wait(20)
        raise ray.exceptions.RayActorError
        yield

    monkeypatch.setattr(flowing, "run_river", river)
    hands = [Hands(stage=Stage, make={"gate": Service("gate", Gate, [{}])})]
    with (
        Lease(Store(), str(tmp_path)) as lease,
        Progress("located") as progress,
        pytest.raises(UserError, match="price of a machine"),
    ):
        flowing._pass([], hands, lease, Watching([Raises()]), progress)


def test_the_journals_last_line_tells_what_the_canary_found(tmp_path: Path) -> None:
    class Found(Onlooker):
        def end(self, account: dict[str, Any]) -> dict[str, Any]:
            return {"canary": {"worse": False}}

    journal = Journal(str(tmp_path / "log"))
    canary: Any = Found()
    job = Flow(
        archive=ArchiveConfig(uri="a"), output="o", store=StoreConfig(), method="geotoken", fingerprint="f", river=[],
        watches=(journal,), canary=canary,
    )  # fmt: skip
    watching = Watching(job.looking_on)
    watching.begin(Run(store=Store(), output=str(tmp_path), id="000001", record={}, resumed=False), {})
    watching.end({"read": 0})
    watching.close()
    *_, last = (tmp_path / "log").read_text().splitlines()
    assert json.loads(last)["account"] == {"read": 0, "canary": {"worse": False}}
