"""The parent's hold on a decoder process: a full pipe, a deadline, and why it died.

Requests are written ahead as far as the pipe takes them, so the child always finds its next image there; answers are read
as they come. Both ends are non-blocking and one `poll` serves them, so neither side can wait for the other and no thread is
needed. The deadline runs from the answer before, since the child decodes in order.

What it costs, measured: 35 µs for a 48-pixel JPEG that takes 100 µs, nothing that shows for one of 12 megapixels.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict

from geobatch.errors import MachineError, Rejection, UserError
from geobatch.image import frames
from geobatch.image.config import DecodeConfig

#: Seconds a child may take to import Pillow and the plugins: 0.15 on an idle core.
START_S = 120.0

#: What of the environment a decoder needs; credentials stay here.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR", "VIRTUAL_ENV")

#: Asked of the kernel for each pipe; it grants less where a user holds many.
_PIPE = 1 << 20

#: Answers that follow each other faster than this are read together: waking for each of 48-pixel JPEGs' answers cost parent
#: and child a quarter more time (175 µs an image against 135; 100 without a sandbox).
_PAUSE_S = 0.001

_SCRATCH = 1 << 18

_SIGNALS = {int(each): each.name for each in signal.Signals}

Answer = frames.Picture | Rejection


class Child:
    """One decoder process, from the parent's side.

    Attributes:
        answered: images answered in its life.
        retires: it will take no further image.
    """

    def __init__(self, config: DecodeConfig) -> None:
        self._config = config
        self._errors = os.memfd_create("decoder-stderr")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "geobatch.image.child", json.dumps(asdict(config))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self.end = weakref.finalize(self, _end, self._process, self._errors)
        assert self._process.stdin and self._process.stdout
        self._requests, self._answers = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._requests, self._answers):
            os.set_blocking(pipe, False)
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        self.answered = 0
        self.retires = False
        self._woke = 0.0
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._have = 0  # bytes of scratch that are not yet an answer
        self._large: tuple[frames.Header, memoryview, int] | None = None  # an answer larger than scratch, and its bytes had
        self._greet()

    def exchange(
        self, images: Sequence[memoryview], answers: list[Answer], meanwhile: Callable[[int], object]
    ) -> Rejection | None:
        """Sends the images from `len(answers)` on and appends their answers.

        Returns:
            What the next image would be rejected for, if it ended this child; None when all are answered or it retires.
        """
        outgoing = _Outgoing(images, len(answers), meanwhile)
        deadline = time.monotonic() + self._config.deadline_s
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        poll.register(self._requests, select.POLLOUT)
        while len(answers) < len(images):
            ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if self._answers in ready:
                self._gather()
                alive, had = self._receive(), len(answers)
                fate = self._take(answers)
                if fate or self.retires:
                    return fate
                if not alive:
                    return self._autopsy()
                if len(answers) > had:
                    deadline = time.monotonic() + self._config.deadline_s
            elif time.monotonic() >= deadline:
                return Rejection("timeout", f"no picture after {self._config.deadline_s:g} s")
            if self._requests in ready and not outgoing.write(self._requests):
                poll.unregister(self._requests)
        return None

    def _gather(self) -> None:
        """Lets small answers add up."""
        if time.monotonic() - self._woke < _PAUSE_S and not self._large:
            time.sleep(_PAUSE_S)
        self._woke = time.monotonic()

    def _take(self, answers: list[Answer]) -> Rejection | None:
        for header, tail in self._unpack():
            if header[0] != len(answers):
                raise MachineError(f"a decoder answered {header[0]}, not {len(answers)}: a bug, report it")
            self.retires = bool(header[2] & frames.RETIRES)
            answer = frames.unpack_answer(header, tail)
            if isinstance(answer, Rejection) and answer.reason == "out_of_memory":
                return answer
            answers.append(answer)
            self.answered += 1
        return None

    def _greet(self) -> None:
        deadline = time.monotonic() + START_S
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            alive = self._receive()
            for header, tail in self._unpack():
                if header[1] == frames.HELLO:
                    return
                words = bytes(tail).decode("utf-8", "replace")
                self.end()
                raise UserError(f"a plugin of the decoder does not import: {words}; correct the setting `plugins`")
            if not alive:
                break
        fate = self._autopsy().detail
        self.end()
        raise MachineError(f"no decoder process could be started: {fate}")

    def _receive(self) -> bool:
        """Reads what is there; False at the end."""
        room = self._scratch[self._have :]
        if self._large:
            room = self._large[1][self._large[2] :]
        try:
            count = os.readv(self._answers, [room])
        except BlockingIOError:
            return True
        if self._large:
            self._large = (*self._large[:2], self._large[2] + count)
        else:
            self._have += count
        return count > 0

    def _unpack(self) -> list[tuple[frames.Header, frames.Bytes]]:
        """The whole answers among what was received."""
        if self._large:
            header, tail, had = self._large
            if had < len(tail):
                return []
            self._large = None
            return [(header, tail)]
        whole: list[tuple[frames.Header, frames.Bytes]] = []
        at, size = 0, frames.HEADER.size
        while self._have - at >= size:
            header = frames.HEADER.unpack_from(self._scratch, at)
            end = at + size + header[-1]
            if end > self._have:
                if end - at > _SCRATCH:
                    tail = memoryview(bytearray(header[-1]))
                    had = self._have - at - size
                    tail[:had] = self._scratch[at + size : self._have]
                    self._large, at = (header, tail, had), self._have
                break
            whole.append((header, bytes(self._scratch[at + size : end])))
            at = end
        self._have -= at
        self._scratch[: self._have] = bytes(self._scratch[at : at + self._have])
        return whole

    def _autopsy(self) -> Rejection:
        """Why it closed its end."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:  # it closed the pipe and lives on, or never came up
            self._process.kill()
            code = self._process.wait()
        words = os.pread(self._errors, 4096, max(0, os.fstat(self._errors).st_size - 4096)).decode("utf-8", "replace")
        last = " ".join(words.split("\n")[-2:]).strip()
        if code == -signal.SIGALRM:
            return Rejection("timeout", f"no picture after {self._config.deadline_s:g} s")
        if "bad_alloc" in words or "MemoryError" in last:
            return Rejection("out_of_memory", last)
        cause = _SIGNALS.get(-code, f"signal {-code}") if code < 0 else f"exit status {code}"
        return Rejection("crashed", f"{cause}: {last}" if last else cause)


class _Outgoing:
    """Images on their way into the pipe."""

    def __init__(self, images: Sequence[memoryview], first: int, sent: Callable[[int], object]) -> None:
        self._images, self._next, self._sent = images, first, sent
        self._parts = self._frame()

    def _frame(self) -> list[memoryview]:
        if self._next == len(self._images):
            return []
        image = self._images[self._next]
        return [memoryview(frames.REQUEST.pack(self._next, len(image))), image]

    def write(self, descriptor: int) -> bool:
        """Writes what the pipe takes of one image; False when nothing is left to write, or nobody reads any more."""
        try:
            count = os.writev(descriptor, self._parts)
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        while self._parts and count >= len(self._parts[0]):
            count -= len(self._parts.pop(0))
        if self._parts:
            self._parts[0] = self._parts[0][count:]
            return True
        self._sent(self._next)
        self._next += 1
        self._parts = self._frame()
        return bool(self._parts)


def _environment() -> dict[str, str]:
    """The parent's modules, none of its secrets; one thread and one heap, since more only cost address space."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # noqa: PTH109  a string is wanted
    single = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
    return kept | single | {"PYTHONPATH": path}


def _end(process: subprocess.Popen[bytes], errors: int) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
    process.wait()
    os.close(errors)
