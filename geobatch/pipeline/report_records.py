"""What a run's own records say, put into words for a page: its account, its facts, the figures of its evaluation.

Read forgivingly: records of older and newer versions have other fields, and a page shows what is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from geobatch.errors import UserError
from geobatch.schema import RADII_KM
from geobatch.sink import Snapshot
from geobatch.store import NotFound, Store, join, split

#: Rows of a finding's table that a page shows.
_ROWS = 40


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the records of a table's last run say."""

    method: str
    """Name of the method."""
    archive: str
    """URI of the archive."""
    facts: tuple[tuple[str, str], ...]
    """For the foot of the page."""
    on_page: dict[str, Any] | None
    """`Run.account` of the page; None without a `done.json`."""


def account_of(store: Store, table: Snapshot) -> Said:
    """The record and the account of the run that made this version of the table."""
    run = str(table.record["run"])
    record = _json(store, join(table.output, "runs", run, "run.json")) or {}
    done = _json(store, join(table.output, "runs", run, "done.json"))
    archive = record.get("archive") or {}
    facts = {
        "table": f"{table.output}, version {table.version}",
        "run": f"{run}, begun {record['started']}" if "started" in record else run,
        "archive": archive.get("uri"),
        "method": record.get("method"),
        "model": record.get("fingerprint") or table.record.get("fingerprint"),
        "geobatch": record.get("geobatch"),
        "ended": (done or {}).get("ended"),
    }
    return Said(
        method=str(record.get("method") or "geobatch"),
        archive=str(archive.get("uri") or ""),
        facts=tuple((name, str(value)) for name, value in facts.items() if value),
        on_page=None if done is None else _account(done),
    )


def _account(done: Mapping[str, Any]) -> dict[str, Any]:
    wall = done.get("wall_seconds") or _between(done.get("started"), done.get("finished"))
    read, size = done.get("read", 0), done.get("bytes", 0)
    rate = done.get("images_a_second") or (read / wall if wall else None)
    tiles, pairs = [], [("images read by the last run", f"{read:,}")]
    if size:
        pairs.append(("encoded bytes", f"{_bytes(size)}" + (f", {_bytes(size / wall)} a second" if wall else "")))
    if wall:
        pairs.append(("time", f"{wall:,.0f} s"))
    if rate:
        pairs.append(("images a second", f"{rate:,.1f}"))
        tiles.append(("images a second", f"{rate:,.1f}"))
    if done.get("slowest"):
        pairs.append(("slowest stage", f"{done['slowest']}"))
    for stage, told in (done.get("stages") or {}).items():
        if told.get("busy_share") is not None:
            pairs.append((f"{stage}, {told['workers']} at once", f"busy {100 * told['busy_share']:.0f} %"))
    for kind, told in (done.get("machines") or {}).items():
        cost = "price not known" if told.get("usd") is None else _usd(told["usd"])
        pairs.append((f"machines of kind {kind}", f"{told['hours']:,.2f} h, {cost}"))
    if done.get("usd") is not None:
        tiles.append(("cost", _usd(done["usd"])))
        pairs.append(("cost", _usd(done["usd"]) + _million(done) + _priced(done)))
    elif "usd" in done:
        pairs.append(("cost", f"not known: no price for {', '.join(done.get('unpriced') or ['the machines'])}"))
    seconds = [[stage, spent] for stage, spent in (done.get("seconds") or {}).items()]
    return {"tiles": tiles, "pairs": pairs, "seconds": seconds}


def _usd(amount: float) -> str:
    """Cents, and more digits of what is less than ten."""
    return f"{amount:,.2f} USD" if amount >= 0.1 or not amount else f"{amount:.2g} USD"


def _bytes(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size / 1e3:,.0f} kB"


def _million(done: Mapping[str, Any]) -> str:
    return f", {_usd(done['usd_a_million'])} a million images" if done.get("usd_a_million") is not None else ""


def _priced(done: Mapping[str, Any]) -> str:
    date = (done.get("prices") or {}).get("date")
    return f" (prices of {date})" if date else ""


def _between(started: str | None, finished: str | None) -> float | None:
    if not started or not finished:
        return None
    return (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds() or None


def load_evaluation(store: Store, uri: str) -> dict[str, Any]:
    """An `evaluation.json`, by its own address or its folder's.

    Raises:
        UserError: it is not there, or no evaluation.
    """
    at = uri if uri.endswith(".json") else join(uri, "evaluation.json")
    try:
        document = json.loads(store.get(at))
    except NotFound as error:
        raise UserError(f"{at} does not exist; make it with evaluate.py --output {uri}") from error
    except ValueError as error:
        raise UserError(f"{at} is no JSON ({error}); make it anew with evaluate.py") from error
    if not isinstance(document, dict) or "choices" not in document:
        raise UserError(f"{at} is no evaluation of evaluate.py; give the evaluation.json in its --output")
    return document


def stale(evaluation: Mapping[str, Any] | None, output: str, version: int | None) -> str | None:
    """Why an evaluation is not of this version of a table (None: a file); old ones do not say what they are of."""
    if evaluation is None or "places" not in evaluation:
        return None
    judged, at = str(evaluation["places"]), evaluation.get("table")
    if split(judged.rstrip("/")).uri != split(output.rstrip("/")).uri:
        return f"the evaluation given for {output} is of {judged}; make it anew with evaluate.py --places {output}"
    if at != version:
        return (
            f"the evaluation given for {output} is of its version {at}, this page of version {version}: rows may have changed "
            f"since; make it anew with evaluate.py --places {output}"
        )
    return None


def lacking(evaluation: Mapping[str, Any] | None) -> int:
    """Images that an evaluation counts as wrong because the table does not hold them."""
    return int((evaluation or {}).get("missing") or 0) if (evaluation or {}).get("missing_counted") else 0


def choices_of(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Rows of the table of figures: each choice, then what others published on the same benchmark, marked as such."""
    rows = []
    for name, one in ((evaluation or {}).get("choices") or {}).items():
        shares = {str(km): one["shares"].get(f"{km}km") for km in RADII_KM}
        figures = {key: _value(one.get(key)) for key in ("median_km", "mean_km", "images")}
        rows.append({"name": name, "shares": shares, **figures})
    for one in (evaluation or {}).get("published") or []:
        figures = dict(zip(one.get("columns") or (), one.get("figures") or (), strict=False))
        shares = {str(km): figures[f"{km}km"] / 100 for km in RADII_KM if f"{km}km" in figures}
        if shares:
            source = ", ".join(str(one[key]) for key in ("source", "date", "note") if one.get(key))
            rows.append({"name": one["system"], "shares": shares, "published": source})
    return rows


def _value(figure: Any) -> Any:
    """The number of a figure, with or without its interval."""
    return figure.get("value") if isinstance(figure, Mapping) else figure


def findings_of(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The sentences of an evaluation, first those of its figures, then everything that has one of its own, with its table."""
    whole = evaluation or {}
    told = whole.get("sentences") or {}
    own = list(_sentences(whole, ""))
    seen = {one["sentence"] for one in own}
    plain = {name: sentence for name, sentence in told.items() if sentence and sentence not in seen}
    found = [{"title": _title(name), "sentence": sentence, "rows": []} for name, sentence in plain.items()] + own
    if unmade := whole.get("unmade"):
        why = "; ".join(f"{_title(name)}: {reason}" for name, reason in unmade.items())
        found.append({"title": "Not analysed", "sentence": f"{why}.", "rows": []})
    return found


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _sentences(value: Any, name: str) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for one in value:
            yield from _sentences(one, name)
    elif isinstance(value, Mapping):
        if isinstance(value.get("sentence"), str) and value["sentence"]:
            title = _title(str(value.get("title") or value.get("name") or name))
            rows = [one for one in value.get("rows") or [] if isinstance(one, Mapping)]
            yield {"title": title, "sentence": value["sentence"], "rows": [dict(one) for one in rows[:_ROWS]]}
        for key, one in value.items():
            if key != "rows":
                yield from _sentences(one, str(key))


def _json(store: Store, uri: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(store.get(uri))
    except NotFound:
        return None
    return found
