"""Which run to work on.

`open_run` decides between three things a user may mean by typing the same command again: take up the run that did not
finish, start another over what is new, or (when what decides a row has changed) nothing at all, with one line that says why.
A run that ended while it still listed has decided nothing: it is not taken up, and hinders nobody.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from geobatch.errors import UserError
from geobatch.sink.publish import now
from geobatch.sink.record import Run
from geobatch.sink.table import Snapshot, latest
from geobatch.store import Store, join


def open_run(
    store: Store,
    output: str,
    *,
    method: str,
    fingerprint: str,
    archive: dict[str, Any],
    relocate: bool = False,
    asked: dict[str, Any] | None = None,
) -> tuple[Run, Snapshot | None]:
    """The run to work on, and the table it adds to (None: there is none, or it starts anew).

    Args:
        store: reaches the output.
        output: folder or `s3://bucket/prefix`.
        method: name of the method.
        fingerprint: hash of everything that decides a row.
        archive: what is read and how it is listed; a run is taken up only for the same.
        relocate: start the table anew where its fingerprint differs, and abandon an unfinished run of another fingerprint or
            archive; where the fingerprint is the table's already it changes nothing, so that the same command goes on.
        asked: what a new run does beside what is new; it is kept in the record.

    Raises:
        UserError: the output belongs to another fingerprint, or to an unfinished run over another archive.
    """
    store.require_conditional_writes(output)
    table = latest(store, output)
    last, state = _last_run(store, output, table)
    if state is not None and not state["done"] and not store.exists(join(output, "runs", f"{last:06d}", "plan.json")):
        _abandon(store, output, last)  # it ended while it listed, and what it was to do was never decided
        state = None
    anew = False
    if state is not None and not state["done"]:
        if state["fingerprint"] != fingerprint and not relocate:
            raise UserError(_refusal(output, f"the unfinished run {last:06d}", state["fingerprint"], fingerprint))
        if state["fingerprint"] == fingerprint and state["archive"] == archive:
            run = Run(store=store, output=output, id=f"{last:06d}", record=state, resumed=True)
            return run, None if state["relocate"] else table
        if not relocate:
            raise UserError(
                f"{output} has the unfinished run {last:06d} over {state['archive'].get('uri')}; finish it with the same "
                "arguments first, or give --relocate to abandon it"
            )
        _abandon(store, output, last)
    if table is not None and table.record["fingerprint"] != fingerprint:
        if not relocate:
            raise UserError(_refusal(output, f"table {table.version}", table.record["fingerprint"], fingerprint))
        anew = True
    record = {
        "fingerprint": fingerprint,
        "method": method,
        "archive": archive,
        "relocate": anew,
        "asked": asked or {},
        "geobatch": version("geobatch"),
        "started": now(),
    }
    run = Run(store=store, output=output, id=f"{last + 1:06d}", record=record, resumed=False)
    return run, None if anew else table


def begin(run: Run) -> Run:
    """Writes a new run's record; if another driver was faster with the same, joins it."""
    if run.resumed or run.store.put_if_absent(run.at("run.json"), json.dumps(run.record).encode()):
        return run
    theirs = json.loads(run.store.get(run.at("run.json")))
    if theirs["fingerprint"] != run.record["fingerprint"] or theirs["archive"] != run.record["archive"]:
        raise UserError(f"another run started at {run.output} this moment; wait for it to finish and run again")
    return Run(store=run.store, output=run.output, id=run.id, record=theirs, resumed=True)


def unfinished_run(store: Store, output: str) -> tuple[str, int]:
    """Id of the run that may be taken up ("" where none may), and the number of the newest one."""
    number, state = _last_run(store, output, latest(store, output))
    return (f"{number:06d}" if state is not None and not state["done"] else ""), number


def _last_run(store: Store, output: str, table: Snapshot | None) -> tuple[int, dict[str, Any] | None]:
    """Number of the newest run with a record (0: none), and the record with `done` added."""
    number = int(table.record["run"]) if table is not None else 0
    while store.exists(join(output, "runs", f"{number + 1:06d}", "run.json")):
        number += 1
    if not number:
        return 0, None
    folder = join(output, "runs", f"{number:06d}")
    record = json.loads(store.get(join(folder, "run.json")))
    ended = store.exists(join(folder, "done.json")) or store.exists(join(folder, "abandoned.json"))
    return number, {**record, "done": ended}


def _abandon(store: Store, output: str, number: int) -> None:
    store.put_if_absent(join(output, "runs", f"{number:06d}", "abandoned.json"), b"{}")


def _refusal(output: str, what: str, theirs: str, ours: str) -> str:
    return (
        f"{output} was made by another model, gallery or setting ({what}: fingerprint {theirs[:12]}, "
        f"this is {ours[:12]}); choose another --output, or give --relocate to start its table anew"
    )
