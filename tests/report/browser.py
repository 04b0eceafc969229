"""A real browser for pages: Chromium 140 as Qt WebEngine from the package index, without a window, in a process of its own.

`python -m tests.report.browser` reads one JSON command a line and answers one JSON line each; `Browser` is the other end.
Whatever the page asks for beside files under the folder it was opened from is refused and listed; so is all that the console
says. Qt stays out of the process of the tests, which it could take down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

#: No screen, no GPU, and root may start it.
ENVIRONMENT = {
    "QT_QPA_PLATFORM": "offscreen",
    "QT_QUICK_BACKEND": "software",
    "QTWEBENGINE_DISABLE_SANDBOX": "1",
    "QTWEBENGINE_CHROMIUM_FLAGS": "--no-sandbox --disable-gpu --disable-dev-shm-usage --js-flags=--max-old-space-size=2048",
    "QT_LOGGING_RULES": "*.debug=false",
}


def required() -> bool:
    """Whether a browser that is not here is a failure, as it is in CI."""
    return bool(os.environ.get("GEOBATCH_REQUIRE_BROWSER"))


def missing() -> bool:
    """Whether there is no browser here; where one is required, this raises."""
    found = find_spec("PySide6")  # found, not imported: it would lay hands on this process's imports
    folders = [] if found is None else list(found.submodule_search_locations or [])
    absent = not any(each for folder in folders for each in Path(folder).glob("QtWebEngineCore*"))
    if absent and required():
        raise RuntimeError("there is no browser: pip install PySide6-WebEngine, or unset GEOBATCH_REQUIRE_BROWSER")
    return absent


class Browser:
    """One page of a browser; a context."""

    def __init__(self, width: int = 1440, height: int = 900) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.report.browser", str(width), str(height)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **ENVIRONMENT},
            cwd=Path(__file__).parent.parent.parent,
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()

    def _ask(self, **command: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the browser ended with status {self._process.wait(10)}")
        return json.loads(line)

    def open(self, path: Path, seconds: float = 60, *, ready: bool = True) -> float:
        """Opens a page from the disk; returns the seconds until it has drawn itself, if that is waited for."""
        started = time.perf_counter()
        assert self._ask(do="open", path=str(path.resolve()))
        if not ready:
            return time.perf_counter() - started
        while self.run("document.documentElement.dataset.ready") != "yes":
            if time.perf_counter() - started > seconds:
                raise TimeoutError(f"the page was not ready: {self.console()}")
        return time.perf_counter() - started

    def run(self, script: str) -> Any:
        """The value of an expression in the page, as JSON has it; after the frame that is under way."""
        return self._ask(do="run", script=script)

    def settle(self, condition: str, seconds: float = 30) -> Any:
        """Waits until an expression is true, and gives its value."""
        end = time.perf_counter() + seconds
        while not (value := self.run(condition)):
            if time.perf_counter() > end:
                raise TimeoutError(f"{condition} stayed false; console: {self.console()}")
        return value

    def click(self, x: float, y: float) -> None:
        """A real press and release of the left button."""
        self._ask(do="click", x=x, y=y)

    def key(self, name: str, text: str = "") -> None:
        """A real key, by Qt's name for it (`Right`, `Plus`, `Tab`)."""
        self._ask(do="key", name=name, text=text)

    def size(self, width: int, height: int) -> None:
        """The window's size in pixels."""
        self._ask(do="size", width=width, height=height)

    def picture(self, path: Path) -> None:
        """A screenshot as PNG."""
        self.run("requestAnimationFrame(() => requestAnimationFrame(() => { window.frames_drawn = true }))")
        self.settle("window.frames_drawn")
        self.run("delete window.frames_drawn")
        self._ask(do="picture", path=str(path))

    def console(self) -> list[str]:
        """What the console said since it was last asked."""
        said: list[str] = self._ask(do="console")
        return said

    def refused(self) -> list[str]:
        """Addresses that were asked for and not given, since it was last asked."""
        addresses: list[str] = self._ask(do="refused")
        return addresses


def _serve(width: int, height: int) -> None:  # noqa: C901  Qt's objects live as long as this does
    from PySide6.QtCore import QEvent, QEventLoop, QPointF, QSocketNotifier, Qt, QTimer, QUrl
    from PySide6.QtGui import QKeyEvent, QMouseEvent
    from PySide6.QtWebEngineCore import (
        QWebEnginePage,
        QWebEngineProfile,
        QWebEngineSettings,
        QWebEngineUrlRequestInterceptor,
    )
    from PySide6.QtWebEngineWidgets import QWebEngineView
    from PySide6.QtWidgets import QApplication

    refused: list[str] = []
    said: list[str] = []
    allowed: list[str] = []

    class Guard(QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, info: Any) -> None:
            address = info.requestUrl().toString()
            if not any(address.startswith(each) for each in allowed):
                refused.append(address)
                info.block(True)

    class Page(QWebEnginePage):
        def javaScriptConsoleMessage(self, level: Any, message: str, line: int, source: str) -> None:
            said.append(f"{level.name}: {message} (line {line})")

    application = QApplication([])
    profile = QWebEngineProfile()  # without a name: nothing is kept
    guard = Guard()
    profile.setUrlRequestInterceptor(guard)
    # Qt alone would keep pages of the disk from asking for addresses; as in other browsers they may, and the guard sees it.
    profile.settings().setAttribute(QWebEngineSettings.WebAttribute.LocalContentCanAccessRemoteUrls, True)
    view, page = QWebEngineView(), Page(profile)
    view.setPage(page)
    view.resize(width, height)
    view.show()

    def wait(milliseconds: int) -> None:
        loop = QEventLoop()
        QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()

    def awaited(begin: Any) -> Any:
        loop, answer = QEventLoop(), []

        def done(value: Any) -> None:
            answer.append(value)
            loop.quit()

        begin(done)
        if not answer:
            QTimer.singleShot(120_000, loop.quit)
            loop.exec()
        return answer[0] if answer else None

    def press(x: float, y: float) -> None:
        target, at = view.focusProxy(), QPointF(x, y)
        left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
        for kind, button, held in (
            (QEvent.Type.MouseMove, none, none),
            (QEvent.Type.MouseButtonPress, left, left),
            (QEvent.Type.MouseButtonRelease, left, none),
        ):
            QApplication.sendEvent(target, QMouseEvent(kind, at, at, button, held, Qt.KeyboardModifier.NoModifier))
            wait(20)

    def key(name: str, text: str) -> None:
        code = Qt.Key[f"Key_{name}"]
        for kind in (QEvent.Type.KeyPress, QEvent.Type.KeyRelease):
            QApplication.sendEvent(view.focusProxy(), QKeyEvent(kind, code, Qt.KeyboardModifier.NoModifier, text))
            wait(10)

    def grab(path: str) -> None:
        # A frame reaches the window when it does: two pictures alike are taken for the last.
        wait(150)
        before, now = None, view.grab().toImage()
        for _ in range(20):
            wait(150)
            before, now = now, view.grab().toImage()
            if before == now:
                break
        now.save(path)

    def answer(command: dict[str, Any]) -> Any:
        match command["do"]:
            case "open":
                allowed[:] = [QUrl.fromLocalFile(command["path"]).toString(), "data:", "blob:"]

                def load(done: Any) -> None:
                    page.loadFinished.connect(done)
                    page.load(QUrl.fromLocalFile(command["path"]))

                loaded = awaited(load)
                page.loadFinished.disconnect()
                return loaded
            case "run":
                wait(5)
                script = f"(() => JSON.stringify(({command['script']}) ?? null))()"
                text = awaited(lambda done: page.runJavaScript(script, 0, done))
                return json.loads(text) if text else None
            case "click":
                press(command["x"], command["y"])
            case "key":
                key(command["name"], command["text"])
            case "size":
                view.resize(command["width"], command["height"])
                wait(100)
            case "picture":
                grab(command["path"])
            case "console":
                return [said.pop(0) for _ in range(len(said))]
            case "refused":
                return [refused.pop(0) for _ in range(len(refused))]
        return True

    # Answers go to the pipe that was stdout; what Chromium prints there must not mix with them.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def read() -> None:
        line = sys.stdin.readline()
        if not line:
            application.quit()
            return
        notifier.setEnabled(False)
        out.write(json.dumps(answer(json.loads(line))) + "\n")
        out.flush()
        notifier.setEnabled(True)

    notifier = QSocketNotifier(sys.stdin.fileno(), QSocketNotifier.Type.Read)
    notifier.activated.connect(read)
    application.exec()
    os._exit(0)  # Chromium's threads outlive their profile at times, and then say so with a crash


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
