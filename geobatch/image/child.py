"""The decoder process: `python -P -m geobatch.image.child CONFIG`, requests on stdin, answers on what was stdout.

Codecs and plugins print where they like, so the answers leave through a private copy of descriptor 1, and whatever is
printed goes to descriptor 2, which the parent bounds. The kernel ends this process if its parent no longer can: an idle
child reads the end of stdin, and a busy one is shot by its own alarm a little after the deadline. (A parent-death signal
would fire when the *thread* that started the child ends, which in an actor means nothing.)
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import BinaryIO

from geobatch.errors import Rejection
from geobatch.image import frames
from geobatch.image.config import DecodeConfig
from geobatch.image.picture import Decoder

#: The alarm rings this many seconds after the deadline, at which the parent should have acted.
GRACE_S = 2.0

#: A child that holds this share of what it may take between two pictures makes way for a new one: leaks never add up.
FULL = 0.5

_BUFFER = 1 << 20
_PAGE = resource.getpagesize()


def main() -> None:
    """Answers requests until stdin ends."""
    answers, requests = os.dup(1), os.dup(0)
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    warnings.simplefilter("ignore")
    values = json.loads(sys.argv[1])
    config = DecodeConfig(**values | {"plugins": tuple(values["plugins"])})
    try:
        decoder = Decoder(config)
    except Exception as error:  # noqa: BLE001  a plugin may raise anything; the parent tells the user
        _write(answers, [frames.pack_words(0, frames.NO_HELLO, 0, f"{type(error).__name__}: {error}")])
        return
    _bind(config.memory_bytes)
    _write(answers, [frames.pack_words(0, frames.HELLO, 0, "")])
    with io.BufferedReader(io.FileIO(requests), _BUFFER) as stream:
        _serve(decoder, config, stream, answers)


def _bind(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # of what is printed; pipes have no size
    with contextlib.suppress(OSError):  # if memory runs out on the whole machine, rather this than a worker
        Path("/proc/self/oom_score_adj").write_text("1000")


def _serve(decoder: Decoder, config: DecodeConfig, requests: BinaryIO, answers: int) -> None:
    memory = os.open("/proc/self/statm", os.O_RDONLY)
    empty = _held(memory)
    full = empty + FULL * (config.memory_bytes - empty)
    while header := requests.read(frames.REQUEST.size):
        number, length = frames.REQUEST.unpack(header)
        flags = 0
        try:
            data = requests.read(length)
            signal.setitimer(signal.ITIMER_REAL, config.deadline_s + GRACE_S)
            picture = decoder.decode(data)
        except (Rejection, MemoryError) as error:
            fate = error if isinstance(error, Rejection) else Rejection("out_of_memory", "its bytes alone are too many")
            flags = frames.RETIRES if fate.reason == "out_of_memory" else 0
            answer: list[frames.Bytes] = [frames.pack_words(number, frames.REJECTION, flags, f"{fate.reason}\0{fate.detail}")]
        else:
            flags = frames.RETIRES if _held(memory) > full else 0
            answer = frames.pack_picture(number, picture, flags)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(answers, answer)
        if flags:
            return


def _held(memory: int) -> int:
    return int(os.pread(memory, 32, 0).split()[0]) * _PAGE


def _write(descriptor: int, parts: list[frames.Bytes]) -> None:
    views = [memoryview(part) for part in parts]
    while views:
        written = os.writev(descriptor, views)
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if views:
            views[0] = views[0][written:]


if __name__ == "__main__":
    main()
