"""How a job ends: its exit status tells the truth, and a user's mistake is one line.

0    done
1    workers, disks or networks kept failing; the same command goes on from here
2    an argument or an output folder that the user must put right
130  interrupted; the same command goes on from here
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from geobatch.errors import MachineError, UserError

Config = TypeVar("Config")


def guarded(main: Callable[[Config], object], parse: Callable[[], Config]) -> int:
    """Runs `main(parse())` and returns the exit status; settings that refuse each other end in one line too."""
    try:
        main(parse())
    except UserError as error:
        return _end(2, str(error))
    except MachineError as error:
        return _end(1, str(error))
    except KeyboardInterrupt:
        return _end(130, "interrupted; the same command goes on from here")
    return 0


def _end(status: int, text: str) -> int:
    sys.stderr.write(f"error: {' '.join(text.split())}\n")
    return status
