"""One line of JSON for each committed slice, for machines that read logs: `--log FILE`, or `-` for standard error.

    {"time": "2026-11-20T02:14:07+00:00", "event": "slice", "run": "000007", "shard": 12, "slice": 0, "last": true, "read": 256,
     "placed": 250, "rejected": 6, "reasons": {"broken": 6}, "bytes": 61234567, "written": 301234, "seconds": {"Read": 1.2, …}}

Further events are "begin" (the plan is frozen), "pass" (a river starts), "canary" (a slice of the canary's, which is not the
table's), and "end", which holds the account. The driver writes them: lines are whole, in the order of the commits, and as many
as there are slices. A file is appended to, so that the nights of a month may share one; a driver that is killed leaves no half
line, since each is one write. A disk that is full may: that is said once, the night goes on without its log, and the next night
begins a new line.

Why not in the bucket: S3 appends nothing, and a line an object would double the requests; what a line says lies in the slice's
commit already.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from geobatch.actors import Hands
from geobatch.errors import UserError
from geobatch.pipeline.watch import Onlooker
from geobatch.progress import say
from geobatch.sink import Run


class Journal(Onlooker):
    """Writes the lines; a `Watch`.

    Args:
        file: path, or "-" for standard error.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, file: str) -> None:
        self._run, self._file = "", file
        self._open: TextIO | None = None
        self._lost = False
        if file == "-":
            return
        try:
            self._open = Path(file).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115  closed in `close`
            if _half_a_line(Path(file)):
                self._line("\n")
        except OSError as error:
            raise UserError(f"--log {file} cannot be written ({error.strerror}); name another file") from error

    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        """The plan is frozen."""
        self._run = run.id
        counts = {name: value for name, value in frozen.items() if isinstance(value, int)}
        self._write("begin", output=run.output, resumed=run.resumed, **counts)

    def river(self, hands: list[Hands]) -> None:
        """A pass starts."""
        stages = [
            {"stage": each.stage.__name__, "workers": each.workers, "cpus": each.cores, "gpus": each.gpus} for each in hands
        ]
        self._write("pass", stages=stages)

    def slice(self, row: dict[str, Any]) -> None:
        """A slice is committed."""
        told = {"shard": row["shard"], "slice": row["number"], **{n: v for n, v in row.items() if n not in ("shard", "number")}}
        self._write(
            "slice" if row["shard"] >= 0 else "canary", **told | {name: dict(told[name]) for name in ("reasons", "seconds")}
        )

    def end(self, account: dict[str, Any]) -> dict[str, Any]:
        """The account is complete."""
        self._write("end", account=account)
        return {}

    def close(self) -> None:
        """No more lines."""
        if self._open is not None:
            with suppress(OSError):  # what a full disk did not take, it tries once more; the file is closed all the same
                self._open.close()
            self._open = None

    def _write(self, event: str, **told: Any) -> None:
        head = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, "run": self._run}
        line = json.dumps({**head, **told}, ensure_ascii=False, default=str) + "\n"
        self._line(line)

    def _line(self, line: str) -> None:
        """A night is worth more than its log: one that cannot be written any more ends here."""
        if self._lost:
            return
        try:
            (self._open or sys.stderr).write(line)
        except OSError as error:
            self._lost = True
            say(f"warning: --log {self._file} cannot be written any more ({error.strerror}); the run goes on without a log")


def _half_a_line(file: Path) -> bool:
    """Whether the file ends in the middle of one."""
    if not file.is_file():  # a pipe or a device
        return False
    with file.open("rb") as there:
        return there.seek(0, os.SEEK_END) > 0 and there.seek(-1, os.SEEK_END) >= 0 and there.read(1) != b"\n"
