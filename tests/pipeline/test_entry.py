"""A job's exit status tells the truth, in one line."""

from __future__ import annotations

import pytest

from geobatch.errors import MachineError, UserError
from geobatch.pipeline.entry import guarded


@pytest.mark.parametrize(
    ("raised", "status"),
    [(None, 0), (MachineError("the disk\nis gone"), 1), (UserError("no such bucket; name one"), 2), (KeyboardInterrupt(), 130)],
)
def test_status_and_line(raised: BaseException | None, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: object) -> None:
        if raised is not None:
            raise raised

    assert guarded(main, dict) == status
    said = capsys.readouterr().err
    assert said.count("\n") == (raised is not None) and "Traceback" not in said


def test_settings_that_refuse_each_other_end_in_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    def parse() -> object:
        raise UserError("side is 0; give at least 1")

    assert guarded(print, parse) == 2
    assert capsys.readouterr().err == "error: side is 0; give at least 1\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(lambda _: 1 / 0, dict)
