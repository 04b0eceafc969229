"""What a person sees while they wait: a bar on a terminal, a line every ten seconds in a log.

Nothing is shown for work that ends within two seconds. `say` is the one place that prints.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

QUIET_SECONDS = 2.0
LINE_SECONDS = 10.0


def say(text: str = "", end: str = "\n") -> None:
    """Prints a line to standard output at once, above any bar."""
    tqdm.write(text, file=sys.stdout, end=end)
    sys.stdout.flush()


class Progress:
    """Counts towards a total, on standard error.

    Args:
        what: what is being done, in two or three words.
        total: how many there are, or None where nobody knows.
        unit: what is counted.
        done: how many were done before.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = "images", done: int = 0) -> None:
        self.what, self.total, self.unit, self.done, self.first = what, total, unit, done, done
        self.started = time.monotonic()
        self.shown = self.started + QUIET_SECONDS - LINE_SECONDS
        self.terminal = sys.stderr.isatty()
        self.bar = (
            tqdm(
                total=total,
                initial=done,
                desc=what,
                unit=f" {unit}",
                delay=QUIET_SECONDS,
                dynamic_ncols=True,
                smoothing=0.1,
            )
            if self.terminal
            else None
        )

    def add(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` (a loss, a rate) is shown beside."""
        self.done += count
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
        elif time.monotonic() - self.shown >= LINE_SECONDS:
            self._line(note)

    def _line(self, note: str) -> None:
        self.shown = time.monotonic()
        spent = self.shown - self.started
        rate = (self.done - self.first) / spent if spent > 0 else 0.0
        text = f"{self.what}: {self.done:,}"
        if self.total:
            text += f" of {self.total:,} {self.unit} ({100 * self.done / self.total:.0f} %)"
            if rate > 0 and self.total > self.done:
                text += f", {(self.total - self.done) / rate:.0f} s left"
        else:
            text += f" {self.unit}"
        text += f", {rate:,.1f}/s" + (f", {note}" if note else "")
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.shown > self.started:
            self._line("done" if kind is None else "stopped")
