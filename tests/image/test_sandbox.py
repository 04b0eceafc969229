"""What a picture can do to its decoder, and that no neighbour pays for it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from geobatch.errors import Rejection, UserError
from geobatch.image import DecodeConfig
from geobatch.image.frames import Picture
from geobatch.image.process import Answer
from geobatch.image.sandbox import Sandbox
from tests.image.made import blocks, encoded, pixels_of, waves
from tests.image.nasty import MAGIC

PLUGIN = "tests.image.nasty"
GOOD = [encoded(np.full((6, 8, 3), level, np.uint8), "PNG") for level in range(10, 200, 10)]


def sandbox(**settings: object) -> Sandbox:
    """A sandbox that knows the nasty format."""
    return Sandbox(DecodeConfig(**{"plugins": (PLUGIN,), **settings}))  # type: ignore[arg-type]


@pytest.fixture
def nasty() -> Iterator[Sandbox]:
    """One with little memory."""
    made = sandbox(memory_bytes=512 << 20)
    yield made
    made.close()


def answers(box: Sandbox, *contents: bytes) -> list[Answer]:
    """One answer for each."""
    return box.decode([memoryview(data) for data in contents], lambda position: None)


def told(answer: Answer) -> str | int:
    """A rejection's reason, or the first sample of a picture."""
    return answer.reason if isinstance(answer, Rejection) else int(pixels_of(answer).flat[0])


def content(answer: Answer) -> tuple[object, ...]:
    """Everything about a picture that can be compared."""
    assert isinstance(answer, Picture)
    return answer.width, answer.height, answer.picture_width, answer.picture_height, answer.time, bytes(answer.pixels)


def pid(box: Sandbox) -> int:
    """Of the child."""
    assert box._child
    return box._child._process.pid


@pytest.mark.parametrize(
    ("word", "reason", "detail"),
    [
        (b"KILL", "crashed", "SIGKILL"),
        (b"SEGV", "crashed", "SIGSEGV"),
        (b"EXIT", "crashed", "exit status 3"),
        (b"QUIT", "crashed", "had enough"),
        (b"BLOAT", "out_of_memory", ""),
        (b"UNHEARD", "broken", "KeyError"),
    ],
)
def test_a_picture_that_ends_its_decoder_is_one_rejection(nasty: Sandbox, word: bytes, reason: str, detail: str) -> None:
    found = answers(nasty, *GOOD[:3], MAGIC + word, *GOOD[3:6])
    assert [told(answer) for answer in found] == [10, 20, 30, reason, 40, 50, 60]
    fate = found[3]
    assert isinstance(fate, Rejection) and detail in fate.detail


def test_a_picture_that_stalls_is_one_rejection_after_the_deadline() -> None:
    box = sandbox(deadline_s=2.0)
    started = time.monotonic()
    found = answers(box, *GOOD[:3], MAGIC + b"STALL", *GOOD[3:6])
    box.close()
    assert [told(answer) for answer in found] == [10, 20, 30, "timeout", 40, 50, 60]
    assert 2.0 <= time.monotonic() - started < 20.0


def test_many_of_them_among_many_neighbours(nasty: Sandbox) -> None:
    deeds = {2: b"KILL", 3: b"EXIT", 7: b"BLOAT", 11: b"SEGV", 18: b"QUIT", 19: b"KILL"}
    reasons = {b"BLOAT": "out_of_memory"}
    contents = [MAGIC + deeds[at] if at in deeds else GOOD[at % len(GOOD)] for at in range(20)]
    expected = [reasons.get(deeds[at], "crashed") if at in deeds else 10 * (at % len(GOOD) + 1) for at in range(20)]
    assert [told(answer) for answer in answers(nasty, *contents)] == expected


def test_what_is_printed_harms_nobody(nasty: Sandbox) -> None:
    assert [told(answer) for answer in answers(nasty, GOOD[0], MAGIC + b"SHOUT", MAGIC + b"READ", GOOD[1])] == [
        10,
        128,
        128,
        20,
    ]


def test_a_leak_is_never_the_fault_of_the_picture_that_it_fills_up_on() -> None:
    box = sandbox(memory_bytes=384 << 20)
    found = answers(box, *[MAGIC + b"LEAK"] * 12, GOOD[0])
    box.close()
    assert [told(answer) for answer in found] == [128] * 12 + [10]


def test_a_child_shot_by_somebody_else_costs_nothing(nasty: Sandbox) -> None:
    answers(nasty, GOOD[0])
    os.kill(pid(nasty), signal.SIGKILL)
    assert [told(answer) for answer in answers(nasty, *GOOD[:4])] == [10, 20, 30, 40]


def test_a_child_shot_in_the_middle_of_a_batch_costs_nothing(nasty: Sandbox) -> None:
    large = encoded(waves(1500, 1000), "PNG")
    answers(nasty, large)
    shot: list[int] = []

    def shoot(position: int) -> None:
        if position == 3 and not shot:
            shot.append(pid(nasty))
            os.kill(shot[0], signal.SIGKILL)

    found = nasty.decode([memoryview(large)] * 6, shoot)
    assert shot and shot[0] != pid(nasty)
    assert all(isinstance(answer, Picture) for answer in found) and len(found) == 6


def test_requests_and_answers_larger_than_any_pipe_and_smaller_than_any_buffer() -> None:
    box = Sandbox(DecodeConfig(side=1000))
    noise = np.random.default_rng(1).integers(0, 255, (1200, 1700, 3), dtype=np.uint8)
    contents = [encoded(noise, "PNG"), *GOOD, encoded(blocks(), "PNG"), encoded(waves(300, 400), "BMP"), *GOOD * 40]
    assert len(contents[0]) > 6_000_000
    once, again = answers(box, *contents), answers(box, *contents)
    box.close()
    assert all(isinstance(answer, Picture) for answer in once)
    assert list(map(content, once)) == list(map(content, again))
    assert isinstance(once[0], Picture) and len(once[0].pixels) == 1000 * 1417 * 3
    assert np.array_equal(pixels_of(once[len(GOOD) + 1]), blocks())  # type: ignore[arg-type]
    assert np.array_equal(pixels_of(once[len(GOOD) + 2]), waves(300, 400))  # type: ignore[arg-type]
    assert [told(answer) for answer in once[1 : len(GOOD) + 1]] == list(range(10, 200, 10))


def test_three_hundred_megapixels_stay_within_a_gigabyte() -> None:
    from PIL import Image

    huge = Image.new("1", (20_000, 15_000), 1)
    box = Sandbox(DecodeConfig(memory_bytes=1 << 30))
    found = answers(box, encoded(huge, "TIFF", compression="group4"))[0]
    box.close()
    assert isinstance(found, Picture) and (pixels_of(found) == 255).all()
    assert (found.width, found.height, found.picture_height) == (20_000, 15_000, 336)


def test_meanwhile_is_told_of_every_image_that_was_sent(nasty: Sandbox) -> None:
    sent: list[int] = []
    contents = [memoryview(data) for data in (*GOOD[:2], MAGIC + b"KILL", *GOOD[2:4])]
    nasty.decode(contents, sent.append)
    assert set(sent) == set(range(5))


def test_an_error_of_the_caller_leaves_no_answers_behind(nasty: Sandbox) -> None:
    with pytest.raises(ZeroDivisionError):
        nasty.decode([memoryview(data) for data in GOOD], lambda position: 1 // 0)
    assert told(answers(nasty, GOOD[5])[0]) == 60


def test_no_image_starts_no_child() -> None:
    box = sandbox()
    assert answers(box) == [] and box._child is None


def test_a_plugin_that_does_not_import_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"no_such_plugin.*correct the setting"):
        answers(sandbox(plugins=("no_such_plugin",)), GOOD[0])


def test_secrets_stay_with_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    box = sandbox()
    assert told(answers(box, MAGIC + b"ENV")[0]) == 128
    box.close()


def test_close_and_collection_end_the_child() -> None:
    box = sandbox()
    answers(box, GOOD[0])
    first = pid(box)
    box.close()
    assert not psutil.pid_exists(first)
    answers(box, GOOD[0])
    second = pid(box)
    del box
    assert not psutil.pid_exists(second)


ORPHANING = """
import sys
from geobatch.image import DecodeConfig
from geobatch.image.sandbox import Sandbox
box = Sandbox(DecodeConfig(plugins=("tests.image.nasty",), deadline_s=0.5))
box.decode([memoryview(b"NASTY-FINE")], print)
print(box._child._process.pid, flush=True)
import geobatch.image.process as module
module.os.set_blocking(box._child._requests, True)
if sys.argv[1] == "busy":
    import geobatch.image.frames as frames
    module.os.write(box._child._requests, frames.REQUEST.pack(0, 11) + b"NASTY-STALL")
import time
time.sleep(60)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_an_orphan_ends_itself(state: str) -> None:
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", ORPHANING, state], stdout=subprocess.PIPE, cwd=root, text=True)
    assert parent.stdout
    parent.stdout.readline()
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.3)
    assert child.is_running()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([child], 10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_batch_takes_no_descriptors_and_no_processes_along() -> None:
    me = psutil.Process()
    files, children = me.num_fds(), len(me.children())
    for _ in range(3):
        box = sandbox()
        answers(box, MAGIC + b"KILL", GOOD[0])
        box.close()
    assert (me.num_fds(), len(me.children())) == (files, children)


def test_a_config_travels_and_refuses_nonsense() -> None:
    config = DecodeConfig(side=48, plugins=("a", "b"))
    assert pickle.loads(pickle.dumps(config)) == config
    for wrong in ({"side": 0}, {"max_pixels": 0}, {"deadline_s": 0.0}, {"deadline_s": float("nan")}, {"memory_bytes": 1}):
        with pytest.raises(UserError, match="give at least"):
            DecodeConfig(**wrong)
