"""Byte parts of one tar: which names they have, and in what order they come.

Large archives are published cut by `split`: MP16-Pro's 370 GB are 19 files `mp-16-images00` … `mp-16-images18`, others are
called `x.tar.00`, `x.tar.aa`, `x.tar.part1`, `x.tgz-001`. Parts that say `tar` in their name are known by it, in whatever
width they are numbered. A name that says nothing is taken for a first part only if it ends in `00`, `01`, `aa` or the like,
what is listed next is its successor, and its first block can be read and is a tar's header: the listing of a million other
files costs no request. As `split` does, `89` may be followed by `9000` and `yz` by `zaaa`.

A sequence must be whole: it begins at 0, 1 or a. Where parts are missing, as while it is uploaded, it is not read but for one
rejection: its members would be torn, and whatever else lies in the archive is worth its night. It is planned again once the
parts are there, which the table then does not know. An archive that is such a sequence alone is refused. What it cannot see is
that the last parts were never fetched; the reader meets that as a file that ends inside a member. Not covered: parts named in a
manifest, and parts of zips.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from geobatch.archive.names import Names, container
from geobatch.errors import UserError
from geobatch.store import ALONE, Object, Store

_NAMED = re.compile(
    r"(?P<tar>.*\.(?:tar|tgz|tar\.gz))(?P<mark>[._-]?(?:part|split|chunk)?[._-]?)(?P<number>\d{1,9}|[a-z]{2,6})",
    re.IGNORECASE | re.DOTALL,
)
_BARE = re.compile(r"(?P<stem>.*?(?<!\d))(?P<number>0+[01]|aa+)", re.DOTALL)
#: Last characters of a bare first part.
_ENDINGS = ("0", "1", "a")
#: Bytes of a tar's header, and where its format is named.
_BLOCK, _MAGIC = 512, slice(257, 262)


class Sequence(NamedTuple):
    """The parts of one tar, in order.

    Attributes:
        name: what the joined file would be called, below the archive's root.
        parts: its objects.
        lacking: in a line, which parts are missing; empty where it is whole.
    """

    name: str
    parts: tuple[Object, ...]
    lacking: str = ""


def successors(number: str) -> tuple[str, ...]:
    """What may come after a part's number: the next one as wide, wider by a digit, or widened as `split` does.

    >>> successors("09"), successors("89"), successors("az"), successors("9")
    (('10',), ('90', '9000'), ('ba',), ('10',))
    """
    low, high = ("0", "9") if number.isdigit() else ("a", "z")
    kept = number.lower().rstrip(high)
    if not kept:
        return (str(int(number) + 1),) if low == "0" else ()
    step = kept[:-1] + chr(ord(kept[-1]) + 1) + low * (len(number) - len(kept))
    widened = step.rstrip(low) + low * (len(step) - len(step.rstrip(low)) + 2)
    return (step, widened) if not step.strip(low).strip(high) and step[0] == high else (step,)


class Parts:
    """Takes the parts of split tars out of a sorted listing.

    Args:
        store: reaches the archive.
        names: its globs; what they exclude, or name as images, is no part.
        root: URI that every object begins with, ended by a slash.
    """

    def __init__(self, store: Store, names: Names, root: str) -> None:
        self._store, self._names, self._root = store, names, root
        self._named: dict[tuple[str, str], list[tuple[str, Object]]] = {}
        self._first: Object | None = None  # a bare name that may be a first part
        self._open: list[Object] = []  # a sequence of bare names

    def sort(self, page: list[Object]) -> tuple[list[Object], list[Sequence]]:
        """What of the page is no part, and the sequences that ended on it.

        Raises:
            UserError: the joined file lies beside its parts.
        """
        loose: list[Object] = []
        whole: list[Sequence] = []
        for found in page:
            self._end(found.uri, loose, whole)
            if not self._part(found, loose, whole):
                loose.append(found)
        return loose, whole

    def rest(self) -> tuple[list[Object], list[Sequence]]:
        """The same for what the end of the listing ended."""
        loose: list[Object] = []
        whole: list[Sequence] = []
        self._end(None, loose, whole)
        self._settle(loose, whole)
        return loose, whole

    def _part(self, found: Object, loose: list[Object], whole: list[Sequence]) -> bool:
        """Keeps the object if it is a part; settles what it shows about those before."""
        last = self._open[-1] if self._open else self._first
        if last is not None:
            if _follows(last, found) and (self._open or self._tar(last)):
                self._open = [*(self._open or [last]), found]
                self._first = None
                return True
            if found.uri.startswith(last.uri):
                return False  # a companion of the part, such as its checksum
            self._settle(loose, whole, found)
        return self._begins(found)

    def _tar(self, found: Object) -> bool:
        """Whether it is a tar as far as the store says: two neighbours' names promise nothing, and cost no run."""
        try:
            return is_tar(self._store, found)
        except ALONE:
            return False

    def _begins(self, found: Object) -> bool:
        """Keeps an object whose name is a part's, or may be a first part's."""
        name = found.uri[len(self._root) :]
        if name[-1:] not in _ENDINGS and ".t" not in name[-30:].lower():
            return False  # a million names cost no regular expression
        named = _NAMED.fullmatch(name)
        pending = self._named.get((named["tar"], named["mark"])) if named else None
        counted = bool(pending and named and named["number"] in successors(pending[-1][0]))  # x.tar.gy, x.tar.gz
        if self._names.excludes(name) or self._names.takes(name) or (container(name) and not counted):
            return False
        if named and self._names.chooses(named["tar"]):
            self._named.setdefault((named["tar"], named["mark"]), []).append((named["number"], found))
        elif (bare := _BARE.fullmatch(name)) and self._names.chooses(_joined_name(bare["stem"])):
            self._first = found
        else:
            return False
        return True

    def _settle(self, loose: list[Object], whole: list[Sequence], after: Object | None = None) -> None:
        """The first part that has no successor is none; the sequence that has no next part is whole."""
        if self._first is not None:
            loose.append(self._first)
        if self._open:
            first, last = self._open[0].uri, self._open[-1].uri
            bare = _BARE.fullmatch(first)
            assert bare is not None
            name = _joined_name(bare["stem"])[len(self._root) :]
            if after is not None and re.fullmatch(re.escape(bare["stem"]) + r"(\d+|[a-z]{2,})", after.uri):
                whole.append(Sequence(name, tuple(self._open), str(_gap(last, after.uri))))
            else:
                whole.append(self._checked(name, self._open))
        self._first, self._open = None, []

    def _end(self, uri: str | None, loose: list[Object], whole: list[Sequence]) -> None:
        """Gives out the named sequences that no key from here on can belong to."""
        for tar, mark in list(self._named):
            if uri is None or not uri.startswith(self._root + tar + mark):
                found = self._named.pop((tar, mark))
                try:
                    parts = ordered(found, mark)
                except UserError as error:
                    whole.append(Sequence(tar, tuple(part for _, part in found), str(error)))
                    continue
                taken = {part.uri for part in parts}
                loose += [part for _, part in found if part.uri not in taken]
                if parts:
                    whole.append(self._checked(tar, parts))

    def _checked(self, name: str, parts: list[Object]) -> Sequence:
        joined = self._root + name
        if self._names.opens(name) and self._store.exists(joined):
            raise UserError(
                f"{joined} and its parts from {parts[0].uri} on are the same images twice; leave one out with --exclude"
            )
        return Sequence(name, tuple(parts))


def _joined_name(stem: str) -> str:
    name = stem.rstrip("._-")
    return name if container(name) == "tar" else f"{name}.tar"


def is_tar(store: Store, found: Object) -> bool:
    """Whether an object begins with the header of a tar."""
    return found.size >= _BLOCK and store.get(found.uri, 0, _BLOCK, if_match=found.etag)[_MAGIC] == b"ustar"


def ordered(found: list[tuple[str, Object]], mark: str) -> list[Object]:
    """The parts (number, object) of one tar in order; none if their numbers count something else, such as days.

    What only looks like a part is left out: x.tar.txt beside x.tar.aa, any letters beside digits.

    Raises:
        UserError: one is missing.
    """
    digits = [(int(number), number, part) for number, part in found if number.isdigit()]
    parts = sorted(digits) or _lettered(found)
    if not parts:
        return []
    if digits and int(parts[0][1]) > 1:
        if len(parts[0][1]) > 3 and parts[0][1][0] != "0" and not mark.strip("._-"):
            return []
        raise UserError(f"{parts[0][2].uri} is no first part of a tar; fetch those before it, or leave it out with --exclude")
    for (_, number, part), (_, after, next_part) in pairwise(parts):
        if after not in successors(number):
            raise _gap(part.uri, next_part.uri)
    return [part for _, _, part in parts]


def _lettered(found: list[tuple[str, Object]]) -> list[tuple[int, str, Object]]:
    """Letters as long as the first part's, or longer as `split` widens them: yz, zaaa … zyzz, zzaaaa."""
    letters = sorted((len(number), number.lower(), part) for number, part in found)
    width = next((length for length, number, _ in letters if not number.strip("a")), 0)
    return [each for each in letters if width and _widened(each[1], width)]


def _widened(letters: str, width: int) -> bool:
    times, rest = divmod(len(letters) - width, 2)
    return times >= 0 and not rest and letters.startswith("z" * times)


def _gap(last: str, after: str) -> UserError:
    return UserError(f"the parts of a tar between {last} and {after} are missing; fetch them, or leave it out with --exclude")


def _follows(last: Object, found: Object) -> bool:
    """Whether a bare name comes directly after another."""
    for length in range(2, min(len(last.uri), 12)):
        stem, number = last.uri[:-length], last.uri[-length:]
        if not (number.isdigit() or (number.isalpha() and number.isascii() and number.islower())):
            return False
        if found.uri.startswith(stem) and found.uri[len(stem) :] in successors(number):
            return True
    return False


def named_like_a_first_part(uri: str) -> bool:
    """Whether a name may be a part's, so that the object is worth asking for."""
    last = uri.rpartition("/")[2]
    return bool(_NAMED.fullmatch(last) and not container(last)) or bool(_BARE.fullmatch(last))


def from_first(store: Store, found: Object) -> Sequence | None:
    """The sequence that an object begins, its further parts asked for one by one; None if it begins none.

    Raises:
        UserError: it is a later part.
    """
    name = found.uri.rpartition("/")[2]
    named, bare = _NAMED.fullmatch(name), _BARE.fullmatch(name)
    if named is None and (bare is None or not is_tar(store, found)):
        return None
    match = named or bare
    assert match is not None
    parts = [(match["number"], found)]
    stem = found.uri[: -len(match["number"])]
    while True:
        after = ((number, store.head(stem + number)) for number in successors(parts[-1][0]))
        following = next(((number, part) for number, part in after if part is not None), None)
        if following is None:
            break
        parts.append(following)
    in_order = ordered(parts, match["mark"] if named else "")
    joined = named["tar"] if named else _joined_name(name[: -len(match["number"])])
    return Sequence(joined, tuple(in_order)) if in_order else None
