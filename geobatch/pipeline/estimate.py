"""What a run would take, out of a sample of it: `--dry-run`.

The archive is listed as the run would list it, what the table holds already left out. A few shards, drawn by a seed from each
kind of container, go through the real river on the real cluster, into a folder `.dry-run-…` in the output that is removed
again; there, since rights may end at the output, and a bucket has nothing beside it. No reader of the output looks into it, and
what a killed dry run left of one is removed by the first a day later. An output on this machine that is not there yet is not
made for it: the folder lies in the nearest one above that is there. After `images` images the sample ends in order, as a
deadline would end it; so do the run's own deadline and its budget. A deadline ends the listing too: then nothing is sampled.

Two rates come of it. *Measured*: images a second between the first slice and the last. It is too low for a short sample, in
which pools are still growing and the river is half empty at both ends. *At best*: what the slowest stage could do if it never
waited. The truth lies between, the nearer to the first the longer the sample. Seconds and USD are given for both, on the
machines there were when the sample ended.

How many images a tar or a Parquet file holds is not known before it is read: they are counted by the bytes that one took in
the sample. A listing that was cut off (`listed`) gives a lower bound and says so. A sample without a single image says what was
listed, and nothing of time and money.

Not covered: machines that are not up yet and what the head idles before and after; the sample costs what its minutes cost.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa

from geobatch.archive.plan import Planned
from geobatch.errors import UserError
from geobatch.pipeline.account import Account, costs, lasted
from geobatch.pipeline.flow import Flow, described, flow
from geobatch.pipeline.prices import HERE, Prices, dated
from geobatch.pipeline.sample import GUESSED_BYTES, Clock, Listed, Sample, look
from geobatch.pipeline.watch import Watch
from geobatch.progress import Progress, say
from geobatch.sink import begin, latest, open_run
from geobatch.sink.opening import unfinished_run
from geobatch.sink.record import WHOLE
from geobatch.store import Store, join, split

#: How folders of samples begin, with the Unix seconds of their making behind it; and when, in seconds, one counts as left.
_ASIDE, _DAY = ".dry-run-", 86400


def _none(account: Account) -> tuple[Watch, ...]:
    """No bounds."""
    return ()


def estimate(
    job: Flow, plans: Iterator[Planned], sample: Sample, prices: Prices, bounds: Callable[[Account], tuple[Watch, ...]] = _none
) -> dict[str, Any]:
    """Samples a run and says what all of it would take.

    Args:
        job: the run; its watches are left out.
        plans: what it would plan (`geobatch.pipeline.frozen.expected`); not asked for before it is sure that the run may be.
        sample: how much is looked at.
        prices: what an hour of a machine costs.
        bounds: what may end the sample early, of its account: the run's deadline and budget.

    Returns:
        The record that `lines` prints: counts, rates, seconds and USD; `"new": False` where there is nothing to do, `"ended"`
        where a bound ended the sample.

    Raises:
        UserError: the run itself would refuse: another fingerprint, an archive that holds nothing.
    """
    store = Store(job.store)
    table = latest(store, job.output)
    if table is not None and table.record["fingerprint"] != job.fingerprint and not job.relocate:
        raise UserError(
            f"{job.output} was made by another model, gallery or setting, and the run would be refused; choose another "
            "--output, or give --relocate"
        )
    unfinished, _ = unfinished_run(store, job.output)
    with Progress("listed", unit="objects") as progress:
        found = look(_counted(plans, progress), sample)
    counts = {"listed": found.listed, "skipped": found.skipped, "known": found.known, "complete": found.complete}
    told = {"dry_run": True, "new": bool(found.drawn), "unfinished": unfinished, **counts}
    if not found.drawn:
        return told
    clock, account = Clock(sample.images), Account(prices, job.address)
    with _aside(job) as output:
        watches = (account, clock, *bounds(account))
        tried = replace(job, output=output, relocate=False, wanted=None, watches=watches, what="sampled")
        _freeze(tried, found)
        with redirect_stdout(StringIO()):  # of a run in a folder that nobody will see
            done = flow(tried)
        there = _machines(account, prices)
    ended = None if clock.enough() else done["ended"]
    return {**told, "ended": ended, **projected(found, clock, done, there, prices)}


def _machines(account: Account, prices: Prices) -> Counter[str]:
    """How many of each kind are there; where the cluster does not say, how many there were while the sample went through."""
    with suppress(Exception):  # no reason to lose a sample that was paid for
        if there := account.look():
            return Counter(prices.kind(node.names) for node in there)
    spent = account.spent()
    return Counter({kind: max(1, round(seconds / max(spent.wall, 1e-9))) for kind, seconds in spent.machines.items()})


def _counted(stream: Iterator[Planned], progress: Progress) -> Iterator[Planned]:
    listed = 0
    for planned in stream:
        progress.add(planned.listed - listed)
        listed = planned.listed
        yield planned


def projected(
    found: Listed, clock: Clock, done: Mapping[str, Any], machines: Mapping[str, int], prices: Prices
) -> dict[str, Any]:
    """What a sample says about everything.

    Args:
        found: what there is.
        clock: how the sample went.
        done: the sample's account.
        machines: how many of each kind are there; none: nobody knows.
        prices: of an hour.

    Returns:
        As `estimate` has it; where the sample held no image at all, "images" is None and nothing is said of time and money.
    """
    if not clock.read:
        return {"images": None, "bytes": sum(found.size.values()), "shards": sum(found.shards.values())}
    images, size = _images(found, clock)
    slowest = done["slowest"]
    could = done["stages"][slowest]["images_a_second"] or clock.rate()
    start = clock.start_seconds()
    a_second, unpriced = costs(dict(machines), prices) if machines else (None, [])
    times = {"": start + images / clock.rate(), "_at_best": start + images / max(could, clock.rate())}
    told: dict[str, Any] = {}
    for name, seconds in times.items():
        told[f"seconds{name}"] = round(seconds, 1)
        told[f"usd{name}"] = None if a_second is None else round(a_second * seconds, 4)
    return {
        "images": images,
        "images_known": all(kind in WHOLE for kind in found.shards),
        "bytes": size,
        "shards": sum(found.shards.values()),
        "sample": {
            **{name: done[name] for name in ("read", "placed", "rejected", "bytes", "reasons", "usd")},
            "seconds": done["wall_seconds"],
            "start_seconds": round(start, 2),
        },
        "images_a_second": round(clock.rate(), 3),
        "images_a_second_at_best": round(max(could, clock.rate()), 3),
        "stages": {
            stage: {"seconds_an_image": round(seconds / max(done["read"], 1), 6), "workers": done["stages"][stage]["workers"]}
            for stage, seconds in done["seconds"].items()
        },
        "slowest": slowest,
        **told,
        "usd_a_million": None if a_second is None or not images else round(a_second * times[""] / images * 1e6, 2),
        "machines": {kind: {"count": count, "usd_an_hour": prices.of(kind)} for kind, count in sorted(machines.items())},
        "unpriced": unpriced,
        "prices": {"date": prices.date, "source": prices.source},
    }


def _images(found: Listed, clock: Clock) -> tuple[int, int]:
    """Images, and bytes; where a container hides its images, by the bytes that one took in those sampled of its kind."""
    taken = clock.bytes_an_image(found.drawn)
    overall = sum(came.size for came in clock.slices) / clock.read or GUESSED_BYTES  # 0: none of them could be read
    total = sum(rows if kind in WHOLE else found.size[kind] / taken.get(kind, overall) for kind, rows in found.rows.items())
    return round(total), sum(found.size.values())


def _freeze(job: Flow, found: Listed) -> None:
    """Leaves a run at the sample's output whose plan is the drawn shards: the flow takes it up."""
    archive = json.loads(json.dumps(described(job.archive)))
    run, _ = open_run(Store(job.store), job.output, method=job.method, fingerprint=job.fingerprint, archive=archive)
    run = begin(run)
    numbered = [
        table.set_column(0, table.schema.field(0), pa.array([number] * len(table), pa.int32()))
        for number, (_, table) in enumerate(found.drawn)
    ]
    run.freeze([pa.concat_tables(numbered)], {"listed": found.listed, "skipped": 0, "known": 0})


def _old(name: str) -> bool:
    """Whether a sample's folder of this name was made more than a day ago: its dry run was killed before it could remove it."""
    made = re.fullmatch(re.escape(_ASIDE) + r"(\d{10})-\w{8}", name)
    return made is not None and int(made[1]) < time.time() - _DAY


def _forgotten(store: Store, output: str) -> Iterator[str]:
    """Objects below the output that killed dry runs left there; no more is listed than what begins like them."""
    first = join(output, _ASIDE)
    for page in store.objects(output, after=first):
        for item in page:
            if not item.uri.startswith(first):
                return
            if _old(_ASIDE + item.uri.removeprefix(first).split("/")[0]):
                yield item.uri


@contextmanager
def _aside(job: Flow) -> Iterator[str]:
    """A place for the sample that all nodes reach, that the rights to the output cover, and that is empty again afterwards."""
    place = split(job.output)
    if place.bucket is not None:
        name = join(job.output, f"{_ASIDE}{time.time():.0f}-{uuid.uuid4().hex[:8]}")
        store = Store(job.store)
        store.delete(_forgotten(store, job.output))
        try:
            yield name
        finally:
            store.delete(item.uri for page in store.objects(name) for item in page)
        return
    folder = Path(place.key).absolute()
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    for left in there.glob(f"{_ASIDE}*"):
        if _old(left.name):
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{_ASIDE}{time.time():.0f}-", dir=there))
    try:
        yield str(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def lines(told: Mapping[str, Any], output: str) -> list[str]:
    """An estimate, for the terminal."""
    before = f", beside the unfinished run {told['unfinished']}, which goes first" if told["unfinished"] else ""
    passed = f"passed over: {told['skipped']:,} that are no images by name, {told['known']:,} already in the table{before}"
    if not told["new"]:
        return [f"dry run: nothing new in {told['listed']:,} objects for {output}", f"  {passed}"]
    least = "" if told["complete"] else "at least "
    early = f"  the sample was ended early, {told['ended']}" if told.get("ended") else ""
    if told["images"] is None:
        return [
            f"dry run: {least}{_size(told['bytes'])} in {told['shards']:,} shards; nothing of it stays",
            f"  {passed}",
            early or "  no image in the sample; give --sample.images more",
        ]
    about = "" if told["images_known"] else "about "
    sample = told["sample"]
    first = (
        f"dry run: {least}{about}{told['images']:,} images, {_size(told['bytes'])} in {told['shards']:,} shards; "
        "nothing of it stays"
    )
    reasons = sorted(sample["reasons"].items(), key=lambda each: -each[1])
    said = [
        first,
        f"  {passed}",
        f"  sample: {sample['read']:,} images in {lasted(sample['seconds'])}, the first after {sample['start_seconds']:.0f} s; "
        f"{sample['rejected']:,} rejected" + "".join(f", {reason} {count:,}" for reason, count in reasons),
    ]
    if early:
        said.append(early)
    width = max(len(stage) for stage in told["stages"])
    for stage, each in told["stages"].items():
        slowest = "  <- the slowest" if stage == told["slowest"] else ""
        milliseconds = f"{1000 * each['seconds_an_image']:,.2f} ms an image"
        said.append(f"  {stage:<{width}}  {milliseconds}, {each['workers']} at once{slowest}")
    said.append(
        f"  {told['images_a_second']:,.1f} images a second as measured, {told['images_a_second_at_best']:,.1f} at best: "
        f"{lasted(told['seconds'])}, or {lasted(told['seconds_at_best'])}"
    )
    machines = ", ".join(f"{each['count']} x {kind}" for kind, each in told["machines"].items())
    if told["unpriced"] == [HERE]:
        return said
    if told["usd"] is None and not told["machines"]:
        said.append("  cost: not known; the cluster does not say what nodes it has, look at its head")
    elif told["usd"] is None:
        said.append(f"  cost: not known; name the price of {', '.join(told['unpriced'])} in a file of --prices")
    else:
        said.append(
            f"  cost on {machines}: {told['usd']:,.2f} USD, at best {told['usd_at_best']:,.2f}; "
            f"{told['usd_a_million']:,.2f} USD a million images ({dated(told['prices']['date'])})"
        )
    return said


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def tell(told: Mapping[str, Any], output: str) -> None:
    """Prints an estimate."""
    for line in lines(told, output):
        say(line)
