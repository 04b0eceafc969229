"""Which names are images, and what an image is called for ever.

An `image_id` is the URI of the object, with `%` written `%25` and `#` written `%23`; a member of an archive adds `#` and its
name, escaped likewise. So the first `#` of an id always ends the object's URI. Names are only ever names: `../x` is a key of
a dictionary here, never a path. A name met for the k-th time in one archive ends in `~k`; a real name that happens to end so
has its tilde written `%7E`, so that no two members can share an id, in whatever order they come.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping

from geobatch.archive.config import ArchiveConfig

#: Endings of the files that are images, in lower case.
IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "jif", "mpo", "jp2", "j2k", "jpf", "jpx", "jpc", "png", "apng", "webp", "gif"}
    | {"tif", "tiff", "bmp", "dib", "avif", "avifs", "heic", "heif", "hif"}
)

#: Endings of the files that hold images, and their kind in the plan; `.tar.gz` is one more.
CONTAINERS = {"tar": "tar", "tgz": "tar", "zip": "zip", "parquet": "parquet"}

#: Endings of the files that hold texts, and their form.
FORMS = {"csv": "csv", "tsv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "json": "json", "parquet": "parquet"}

_NUMBERED = re.compile(r"~(\d+)$")


def container(name: str) -> str | None:
    """The kind of container ("tar", "zip", "parquet") that a name promises, or None."""
    _, dot, ending = name.rpartition(".")
    if not dot:
        return None
    ending = ending.lower()
    return "tar" if ending == "gz" and name[-7:-3].lower() == ".tar" else CONTAINERS.get(ending)


def text_form(name: str) -> str | None:
    """The form ("csv", "jsonl", "json", "parquet") of texts that a name promises, or None; all but Parquet may end in `.gz`."""
    stem = name.lower().removesuffix(".gz")
    _, dot, ending = stem.rpartition(".")
    found = FORMS.get(ending) if dot else None
    return None if found == "parquet" and len(stem) < len(name) else found


def escaped(text: str) -> str:
    """A URI or a member's name as a part of an image_id."""
    return text.replace("%", "%25").replace("#", "%23")


class Names:
    """The globs of an archive, compiled.

    A glob without `/` is compared with the last part of a name, one with `/` with the whole: the path below the archive's
    root, or the member's name inside its container. `*` stands for anything, `/` included; case matters. Globs that end like
    a container (`2019/*.tar`) choose among containers, all others among images. In an archive of texts the files of texts are
    the containers, and no loose object is a text unless a glob says so.
    """

    def __init__(self, config: ArchiveConfig) -> None:
        self._texts = bool(config.texts)
        chosen = [glob for glob in config.include if self.kind(glob)]
        self._containers = _compiled(chosen)
        self._images = _compiled(glob for glob in config.include if not self.kind(glob))
        self._only = bool(config.include)
        self._exclude = _compiled(config.exclude)

    def kind(self, name: str) -> str | None:
        """The kind in the plan of the container that a name promises, or None."""
        if self._texts:
            return "text" if text_form(name) else None
        return container(name)

    def excludes(self, name: str) -> bool:
        """Whether a glob of `exclude` fits."""
        return _matches(self._exclude, name)

    def chooses(self, name: str) -> bool:
        """Whether the globs of `include` leave the container of this name in."""
        return self._containers is None or _matches(self._containers, name)

    def opens(self, name: str) -> bool:
        """Whether the container of this name is to be read."""
        return self.chooses(name) and not _matches(self._exclude, name)

    def takes(self, name: str) -> bool:
        """Whether a loose object of this name is an image to be read."""
        if self._only and self._images is None:
            return False
        return self.takes_member(name)

    def takes_member(self, name: str) -> bool:
        """Whether a container's member of this name is an image to be read."""
        if not name or name[-1] == "/" or _matches(self._exclude, name):
            return False
        if self._images is not None:
            return _matches(self._images, name)
        return not self._texts and named_like_an_image(name)


def member_globs(config: ArchiveConfig) -> dict[str, list[str]]:
    """The globs that decide which members of a container are images, as a record keeps them: `{"include", "exclude"}`."""
    images = sorted({glob for glob in config.include if not container(glob)})
    # What is no image by its extension needs no glob that excludes it.
    return {"include": images, "exclude": sorted({glob for glob in config.exclude if images or not container(glob)})}


def no_wider(now: Mapping[str, list[str]], then: Mapping[str, list[str]]) -> bool:
    """Whether some `member_globs` take no name that others left out, as far as the globs themselves tell."""
    fewer = bool(now["include"]) and {*now["include"]} <= {*then["include"]}
    return {*then["exclude"]} <= {*now["exclude"]} and (fewer or now["include"] == then["include"])


def named_like_an_image(name: str) -> bool:
    """Whether the extension is one of an image; macOS's companions of images (`._x.jpg`, `__MACOSX/`) are none."""
    _, dot, suffix = name.rpartition(".")
    if not dot or suffix.lower() not in IMAGE_SUFFIXES:
        return False
    return not (name.rpartition("/")[2].startswith("._") or name.startswith("__MACOSX/"))


def _compiled(globs: Iterable[str]) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None] | None:
    """Patterns for the whole name and for its last part."""
    whole: list[str] = []
    last: list[str] = []
    for glob in globs:
        (whole if "/" in glob else last).append(fnmatch.translate(glob))
    if not whole and not last:
        return None
    return (re.compile("|".join(whole)) if whole else None, re.compile("|".join(last)) if last else None)


def _matches(patterns: tuple[re.Pattern[str] | None, re.Pattern[str] | None] | None, name: str) -> bool:
    if patterns is None:
        return False
    whole, last = patterns
    return bool((whole and whole.match(name)) or (last and last.match(name.rpartition("/")[2])))


class MemberIds:
    """The image_ids of one archive's members, in the order they are met.

    Args:
        uri: of the archive.
        taken: ids that members read earlier have. Members are given the smallest number that is free, so that the ids of
            a part of the archive come out the same whatever other parts were read before.
    """

    def __init__(self, uri: str, taken: Iterable[str] = ()) -> None:
        self._prefix = f"{escaped(uri)}#"
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def give(self, name: str) -> str:
        """The id of the next member of this name."""
        plain = self._prefix + _NUMBERED.sub(r"%7E\1", escaped(name))
        number = self._next.get(plain, 1)
        given = plain if number == 1 else f"{plain}~{number}"
        while given in self._taken:
            number += 1
            given = f"{plain}~{number}"
        self._taken.add(given)
        if number > 1:
            self._next[plain] = number + 1
        return given
