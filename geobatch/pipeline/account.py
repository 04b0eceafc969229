"""What a run cost and where its time went: the second half of `done.json`, and the table at the end on the terminal.

    wall_seconds       of all the drivers that worked on the run, from the frozen plan to the published table
    images_a_second    images read over those seconds
    stages             each stage's busy seconds, its workers, the share of their time they were busy, the images a second that
                       all of them together could do
    slowest            the stage whose workers were busy longest, each on average: the one to give more workers
    machines           hours by kind of machine (`machines`), and what they cost (`prices`)
    usd                of all of them; null while the price of one is not known, whose name is in `unpriced`
    usd_a_million      images read
    prices             date and source of the prices

It survives its driver: every minute, and at its end, each writes its own `runs/RUN/account/DRIVER.json`, and the next adds what
it finds there. A driver that is killed takes the last minute of its account with it; the time in which nobody drove the run
is not counted, though its machines may have idled.

Busy seconds are the commits' own: every committed slice once, whoever drove. Work that was lost with a node is time on the
machines, and in no stage.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from geobatch import metrics
from geobatch.actors import Hands
from geobatch.errors import GeobatchError, MachineError, UserError
from geobatch.pipeline.machines import LOOK_SECONDS, Hours, Node, nodes
from geobatch.pipeline.prices import HERE, Prices, dated
from geobatch.pipeline.watch import Onlooker
from geobatch.progress import say
from geobatch.sink import Run

#: Seconds between two saved accounts.
SAVE_SECONDS = 60.0
#: Seconds for which what earlier drivers of a run spent counts toward its budget: a night, not the night before.
RECENT = 12 * 3600.0


@dataclass(frozen=True)
class Spent:
    """What drivers have spent on a run.

    Fields:
        wall: seconds.
        machines: seconds by kind.
        workers: slices that a stage's workers may be at together, by stage.
    """

    wall: float
    machines: Mapping[str, float]
    workers: Mapping[str, int]

    def __add__(self, other: Spent) -> Spent:
        """Of two drivers, the later one's workers count."""
        machines = Counter(self.machines)
        machines.update(other.machines)
        return Spent(self.wall + other.wall, machines, {**self.workers, **other.workers})


class Account(Onlooker):
    """Keeps the account of a run; a `Watch`.

    Args:
        prices: what an hour costs.
        address: the cluster, as the job was told.
        look: gives the nodes that are there; for tests.
        clock: seconds; for tests.
        look_seconds: between two looks at the cluster.
    """

    def __init__(
        self,
        prices: Prices,
        address: str | None = None,
        *,
        look: Callable[[], list[Node]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self.prices, self.look, self.clock, self.look_seconds = prices, look or (lambda: nodes(address)), clock, look_seconds
        self._run: Run | None = None
        self._hours, self._workers = Hours(), Counter[str]()
        self._earlier = self._recent = Spent(0.0, {}, {})
        self._name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        self._started = self._saved = 0.0
        self._passes, self._failed, self._ended = 0, 0, False
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    # As a watch

    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        """Adds what earlier drivers of the run wrote, and starts to look at the machines."""
        self._run = run
        if run.resumed:
            self._earlier, self._recent = spent(run), spent(run, time.time() - RECENT)
        self._started = self._saved = self.clock()
        self.sample()
        self._thread = threading.Thread(target=self._looking, name="account", daemon=True)
        self._thread.start()

    def river(self, hands: list[Hands]) -> None:
        """Takes down how many hands each stage has."""
        for each in hands:
            self._workers[each.stage.__name__] = max(1, each.workers) * max(1, each.at_once)
        self._passes += 1
        if self._passes > 1:
            metrics.retried("pass")
        self.sample()

    def end(self, account: dict[str, Any]) -> dict[str, Any]:
        """What the top of this module says."""
        self.sample()
        self.save()
        self._ended = True
        return reckoned(account, self.spent(), self.prices)

    def close(self) -> None:
        """Looks no more. A run that breaks off leaves its account behind, if the store still takes it."""
        self._over.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if not self._ended:
            self.sample()
            with suppress(GeobatchError):  # what broke the run off is on its way up, and says more
                self.save()

    # What is asked

    def cost_so_far(self) -> float:
        """USD of this driver up to now, and of what earlier ones of the run spent in the `RECENT` seconds before it.

        Raises:
            UserError: the price of a machine is not known.
            MachineError: no look at the cluster ever succeeded.
        """
        if self._failed and not self._hours.seconds:
            raise MachineError(f"the cluster does not say what nodes it has, {self._failed} times asked; look at its head")
        with self._lock:
            here = Spent(0.0, self._hours.until(self.clock()), {})
        usd, unpriced = costs((self._recent + here).machines, self.prices)
        if usd is None:
            raise UserError(f"nobody knows what {unpriced[0]!r} costs an hour; name it in a file of --prices")
        return usd

    def spent(self) -> Spent:
        """Up to now."""
        with self._lock:
            return self._earlier + Spent(
                self.clock() - self._started if self._run is not None else 0.0,
                dict(self._hours.seconds),
                dict(self._workers),
            )

    # How it is kept

    def sample(self) -> None:
        """Looks at the cluster; one that does not answer is asked again later, and what was missed is interpolated."""
        try:
            kinds = [(node, self.prices.kind(node.names)) for node in self.look()]
            # Of one on its way no price may be known that it will have: it must not end a run for want of one.
            there = {node.id: kind for node, kind in kinds if not node.coming or self.prices.of(kind) is not None}
        except Exception:  # noqa: BLE001  an account is no reason to end a run
            there = {}
        if not there:
            self._failed += 1
            return
        with self._lock:
            self._hours.look(self.clock(), there)

    def save(self) -> None:
        """Writes this driver's account to the run's folder."""
        assert self._run is not None
        with self._lock:
            record = {
                "wall_seconds": round(self.clock() - self._started, 3),
                "machine_seconds": {kind: round(seconds, 3) for kind, seconds in self._hours.seconds.items()},
                "workers": dict(self._workers),
            }
            self._saved = self.clock()
        self._run.store.put(self._run.at("account", self._name), json.dumps(record).encode())

    def _looking(self) -> None:
        while not self._over.wait(self.look_seconds):
            self.sample()
            if self.clock() - self._saved >= SAVE_SECONDS:
                with suppress(GeobatchError):  # a store that refuses now is asked again at the next look, and at the end aloud
                    self.save()


def spent(run: Run, since: float = 0.0) -> Spent:
    """What all drivers of a run have written down, in the order they began; `since`: that part of it, in Unix seconds."""
    uris = sorted(item.uri for page in run.store.objects(run.at("account")) for item in page)
    total = Spent(0.0, {}, {})
    for uri in uris:
        record = json.loads(run.store.get(uri))
        wall, began = record["wall_seconds"], int(uri.rsplit("/", 1)[-1].split("-")[0]) / 1e9
        share = min(1.0, max(0.0, (began + wall - since) / wall)) if wall > 0 else 1.0
        machines = {kind: seconds * share for kind, seconds in record["machine_seconds"].items()}
        total += Spent(wall * share, machines, record["workers"])
    return total


def costs(machines: Mapping[str, float], prices: Prices) -> tuple[float | None, list[str]]:
    """USD of so many seconds by kind, or None; and the kinds without a price."""
    priced = {kind: prices.of(kind) for kind in machines}
    unpriced = sorted(kind for kind, price in priced.items() if price is None)
    if unpriced:
        return None, unpriced
    return sum(seconds / 3600 * (priced[kind] or 0.0) for kind, seconds in machines.items()), []


def reckoned(account: Mapping[str, Any], spent: Spent, prices: Prices) -> dict[str, Any]:
    """What a run's account says of time and money, out of its counts ("read", "seconds" by stage)."""
    read, busy = account["read"], account["seconds"]
    stages = {stage: _stage(seconds, spent.workers.get(stage, 1), read, spent.wall) for stage, seconds in busy.items()}
    usd, unpriced = costs(spent.machines, prices)
    usd = None if spent.wall > 0 and not spent.machines else usd  # nobody ever said what there was
    return {
        "wall_seconds": round(spent.wall, 2),
        "images_a_second": _rate(read, spent.wall),
        "stages": stages,
        "slowest": max(busy, key=lambda stage: busy[stage] / spent.workers.get(stage, 1), default=None),
        "machines": {kind: _machine(seconds, prices.of(kind)) for kind, seconds in sorted(spent.machines.items())},
        "usd": None if usd is None else round(usd, 4),
        "usd_a_million": None if usd is None or not read else round(usd / read * 1e6, 4),
        "unpriced": unpriced,
        "prices": {"date": prices.date, "source": prices.source},
    }


def _stage(seconds: float, workers: int, read: int, wall: float) -> dict[str, Any]:
    return {
        "busy_seconds": round(seconds, 2),
        "workers": workers,
        "busy_share": round(seconds / workers / wall, 4) if wall > 0 else None,
        "images_a_second": _rate(read * workers, seconds),
    }


def _machine(seconds: float, price: float | None) -> dict[str, Any]:
    hours = seconds / 3600
    return {"hours": round(hours, 4), "usd_an_hour": price, "usd": None if price is None else round(hours * price, 4)}


def _rate(images: int, seconds: float) -> float | None:
    return round(images / seconds, 3) if seconds > 0 else None


def table(account: Mapping[str, Any]) -> list[str]:
    """The lines for the terminal: how fast, what held it up, what it cost."""
    lines = [f"{account['read']:,} images in {lasted(account['wall_seconds'])}"]
    if account["images_a_second"] is not None:
        lines[0] += f", {account['images_a_second']:,.1f} a second"
    width = max((len(stage) for stage in account["stages"]), default=0)
    for stage, told in account["stages"].items():
        busy = "" if told["busy_share"] is None else f", busy {100 * told['busy_share']:3.0f} %"
        could = "" if told["images_a_second"] is None else f", could do {told['images_a_second']:,.1f} images a second"
        slowest = "  <- the slowest" if stage == account["slowest"] else ""
        lines.append(f"  {stage:<{width}}  {told['workers']:>3} at once{busy}{could}{slowest}")
    if account["unpriced"] == [HERE]:  # a machine of one's own, whose hours nobody bills
        return lines
    for kind, told in account["machines"].items():
        price = "its price is not known" if told["usd"] is None else f"{told['usd']:,.2f} USD"
        lines.append(f"  {told['hours']:,.2f} h of {kind}: {price}")
    if account["usd"] is None and not account["machines"]:
        lines.append("cost: not known; the cluster did not say what nodes it had")
    elif account["usd"] is None:
        lines.append(f"cost: not known; name the price of {', '.join(account['unpriced'])} in a file of --prices")
    else:
        million = "" if account["usd_a_million"] is None else f", {account['usd_a_million']:,.2f} USD a million images"
        lines.append(f"cost: {account['usd']:,.2f} USD{million} ({dated(account['prices']['date'])})")
    return lines


def tell(account: Mapping[str, Any]) -> None:
    """Prints the table, for an account that an `Account` has seen."""
    if "stages" in account:
        for line in table(account):
            say(line)


def lasted(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
