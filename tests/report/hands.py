"""What a person does to a page in the browser of the tests, and what is true of every page afterwards."""

from __future__ import annotations

import pytest

from tests.report.browser import Browser, missing

needs_browser = pytest.mark.skipif(missing(), reason="PySide6-WebEngine is not installed: pages are not opened")


def clean(browser: Browser) -> None:
    """Nothing was said on the console, nothing was asked for, no name did harm."""
    assert browser.console() == []
    assert browser.refused() == []
    assert browser.run("window.harm") is None


def shown(browser: Browser) -> str:
    """How many images pass the filters, in the page's words."""
    return str(browser.run("document.getElementById('count').textContent"))


def change(browser: Browser, name: str, value: object) -> None:
    """A new value of a control and its event."""
    browser.run(
        f"(() => {{ const one = document.getElementById('{name}'); one.value = '{value}';"
        f" one.dispatchEvent(new Event(one.tagName === 'SELECT' ? 'change' : 'input')); }})()"
    )
