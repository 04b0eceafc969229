"""JSON as models write it, with the place of every value in the text.

Taken besides JSON: trailing commas, single quotes, names without quotes, raw line breaks and unescaped quotes in strings,
comments, NaN and Infinity, values without quotes (`48.86° N`), and an end anywhere. Each value knows whether it was `whole`
when the text ended or broke, so that 2.29 cut off on its way to 2.29448 is not taken for a coordinate.

Libraries that mend JSON (json_repair, json5, partial-json-parser) give values without positions, and the log-probability of
an answer is summed over the characters that hold it; hence this reader. On JSON it agrees with `json.loads`, the last of equal
names included.

What breaks (an object that turns into prose) ends there and keeps what it had, and reading goes on behind it, so that the cost
is linear. Not covered: nesting beyond 64.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_DEPTH = 64

_OPEN = re.compile(r"[{\[]")
_SKIP = re.compile(r"(?:\s++|//[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z))*+")
_TO_QUOTE = {quote: re.compile(rf"(?:[^{quote}\\]++|\\.)*+{quote}", re.DOTALL) for quote in "\"'"}
_AFTER_STRING = re.compile(r"\s*+(?:[,:}\]]|//|$)")
_BARE = re.compile(r"[^,}\]\n/\"{\[]++")
_NAME = re.compile(r"[A-Za-z_][\w-]*+")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,300}+)")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("true", "True"), True),
    **dict.fromkeys(("false", "False"), False),
    **dict.fromkeys(("null", "None"), None),
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
}


@dataclass(slots=True)
class Node:
    """A value at the characters `start` to `end` (of a string, those between its quotes); `whole` if it was not cut off.

    `value` is a dict of nodes, a list of nodes, or a plain value.
    """

    value: Any
    start: int
    end: int
    whole: bool = True


def plain(node: Node) -> Any:
    """The value without positions, as `json.loads` gives it."""
    if isinstance(node.value, dict):
        return {name: plain(inner) for name, inner in node.value.items()}
    if isinstance(node.value, list):
        return [plain(inner) for inner in node.value]
    return node.value


def documents(text: str) -> Iterator[Node]:
    """The objects and arrays of a text, outermost only, in order; the last may not be whole."""
    at = 0
    while found := _OPEN.search(text, at):
        reader = _Reader(text)
        node, end = reader.value(found.start(), 0)
        yield node
        at = max(end, found.start() + 1)


class _Reader:
    """Reads one value; `broken` once the text is no JSON any more."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.broken = False

    def value(self, at: int, depth: int) -> tuple[Node, int]:
        """The value that starts at a character, and the character behind it."""
        first = self.text[at : at + 1]
        if first and first in "{[":
            if depth >= _DEPTH:
                return self._break(Node(None, at, at, False), at)
            return self._object(at, depth) if first == "{" else self._array(at, depth)
        return self._string(at) if first and first in "\"'" else self._bare(at)

    def _skip(self, at: int) -> int:
        found = _SKIP.match(self.text, at)
        return found.end() if found else at

    def _break(self, node: Node, at: int) -> tuple[Node, int]:
        self.broken, node.whole, node.end = True, False, at
        return node, at

    def _object(self, start: int, depth: int) -> tuple[Node, int]:
        inner: dict[str, Node] = {}
        node, at = Node(inner, start, start), self._skip(start + 1)
        while self.text[at : at + 1] != "}":
            if self.text[at : at + 1] and self.text[at] in "\"'":
                named, at = self._string(at)
                name = named.value
            elif bare := _NAME.match(self.text, at):
                name, at = bare[0], bare.end()
            else:
                return self._break(node, at)
            at = self._skip(at)
            if self.text[at : at + 1] != ":":
                return self._break(node, at)
            inner[name], at = self.value(self._skip(at + 1), depth + 1)
            at = self._skip(at)
            if self.broken:
                return self._break(node, at)
            if self.text[at : at + 1] == ",":
                at = self._skip(at + 1)
            elif self.text[at : at + 1] not in ("}", '"'):  # a quote: the comma between two members was left out
                return self._break(node, at)
        node.end = at + 1
        return node, at + 1

    def _array(self, start: int, depth: int) -> tuple[Node, int]:
        inner: list[Node] = []
        node, at = Node(inner, start, start), self._skip(start + 1)
        while self.text[at : at + 1] != "]":
            if not self.text[at : at + 1] or self.text[at] in ",:}":
                return self._break(node, at)
            item, at = self.value(at, depth + 1)
            inner.append(item)
            at = self._skip(at)
            if self.broken:
                return self._break(node, at)
            if self.text[at : at + 1] == ",":
                at = self._skip(at + 1)
            elif self.text[at : at + 1] != "]":
                return self._break(node, at)
        node.end = at + 1
        return node, at + 1

    def _string(self, at: int) -> tuple[Node, int]:
        """A string; a quote that nothing of JSON follows belongs to it."""
        quote, end = self.text[at], at + 1
        while found := _TO_QUOTE[quote].match(self.text, end):
            end = found.end()
            if _AFTER_STRING.match(self.text, end):
                raw = self.text[at + 1 : end - 1]
                return Node(_unescaped(raw, quote), at + 1, end - 1), end
        return self._break(Node(_unescaped(self.text[at + 1 :], quote), at + 1, at), len(self.text))

    def _bare(self, at: int) -> tuple[Node, int]:
        found = _BARE.match(self.text, at)
        if not found:
            return self._break(Node(None, at, at), at)
        word = found[0].rstrip()
        end = at + len(word)
        value: Any = word
        if word in _WORDS:
            value = _WORDS[word]
        elif _INTEGER.fullmatch(word):
            value = int(word)
        elif _NUMBER.fullmatch(word[:400]):
            value = float(word) if len(word) <= 400 else float("inf")
        node = Node(value, at, end, whole=end < len(self.text))
        return node, found.end()


def _unescaped(raw: str, quote: str) -> str:
    if "\\" not in raw:
        return raw
    mended = raw.replace("\\'", "'") if quote == "'" else raw
    try:
        text = json.loads('"' + re.sub(r'(?<!\\)"', r"\"", mended) + '"', strict=False)
    except json.JSONDecodeError:
        return raw
    return str(text)
