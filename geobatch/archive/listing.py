"""What an archive's URI names, in pages: the objects below a prefix, those of a manifest, or one file.

Nothing is judged here but what a thing is: which names are wanted, which are known and how they fall into shards is the
planner's (`plan`). An archive of texts is listed by its files; a CSV there is no manifest, and no name is a tar's part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from geobatch.archive import manifest, parts
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.names import Names, container, named_like_an_image, text_form
from geobatch.errors import GeobatchError, UserError
from geobatch.store import Changed, Denied, NotFound, Object, Store, Withheld, split

#: Objects whose first byte is fetched to learn, before anything starts, whether they may be read.
PROBES = 3


class Source(NamedTuple):
    """One object that may be read: its name for the globs, and its kind in the plan, or None for what may be an image.

    The byte parts of a tar are one source: `found` is the first of them, `name` is the joined file's, and `lacking` says which
    of them are missing. What a manifest names and the store does not show, though it may be there, is `hidden`.
    """

    found: Object | None
    uri: str
    name: str
    kind: str | None
    parts: tuple[Object, ...] = ()
    lacking: str = ""
    hidden: bool = False


class Page(NamedTuple):
    """Sources in the order listed, and how many more a manifest names that are no sources of their own."""

    sources: list[Source]
    passed: int = 0


def pages(store: Store, config: ArchiveConfig, names: Names) -> Iterator[Page]:
    """What is listed: below a prefix, in a manifest, or the one file that the archive is.

    Raises:
        UserError: the URI is of a file that is no archive, or a manifest cannot be read.
        Unreadable: the store kept failing.
    """
    uri = split(config.uri).uri
    found = store.head(uri) if _single(uri, config) or uri.startswith("file:") else None
    if found is None:
        root = uri if uri.endswith("/") else f"{uri}/"
        if config.texts:
            for page in store.objects(uri):
                yield _page(names, root, page, [])
            return
        found_parts = parts.Parts(store, names, root)
        for page in store.objects(uri):
            yield _page(names, root, *found_parts.sort(page))
        yield _page(names, root, *found_parts.rest())
    elif config.texts:
        yield Page([_file(uri, found, names, texts=True)])
    elif manifest.is_manifest(uri) and manifest.names_images(store, found):
        for listed in manifest.pages(store, found):
            yield Page([_row(*each) for each in listed], listed.passed)
    elif sequence := parts.from_first(store, found):
        yield _page(names, "", [], [sequence])
    else:
        yield Page([_file(uri, found, names)])


def _single(uri: str, config: ArchiveConfig) -> bool:
    """Whether a URI is likely to be a file's; the store is asked only then."""
    if config.texts:
        return text_form(uri) is not None
    named = container(uri) is not None or manifest.is_manifest(uri) or named_like_an_image(uri)
    return named or parts.named_like_a_first_part(uri)


def _file(uri: str, found: Object, names: Names, *, texts: bool = False) -> Source:
    name = uri.rpartition("/")[2]
    kind = names.kind(uri)
    if kind or names.takes(name):
        return Source(found, uri, name, kind)
    wanted = "CSV, TSV, JSONL, JSON or Parquet of texts" if texts else "tar, zip, Parquet, CSV or image"
    raise UserError(f"{uri} is neither a folder nor a {wanted}; name what it holds with --archive")


def _row(uri: str, said: Object | GeobatchError | None) -> Source:
    found = said if isinstance(said, Object) else None
    return Source(found, uri, uri, container(uri) or "object", hidden=isinstance(said, GeobatchError))


def _page(names: Names, root: str, loose: list[Object], sequences: list[parts.Sequence]) -> Page:
    sources = [Source(each, each.uri, (name := each.uri[len(root) :]), names.kind(name)) for each in loose]
    return Page(
        sources + [Source(each.parts[0], each.parts[0].uri, each.name, "tar", each.parts, each.lacking) for each in sequences]
    )


def probe(store: Store, new: list[Source], known: list[Source]) -> None:
    """Refuses an archive that may be listed and not read; a forbidden object or folder is rejections later.

    Raises:
        Denied: none of the first new sources may be read, nor any of the first of those known, which could be once.
    """
    denied: Denied | None = None
    for source in (*new[:PROBES], *known[:PROBES]):
        if source.found is None and not source.hidden:
            continue
        try:
            store.get(source.uri, 0, 1)
            return
        except (NotFound, Changed, Withheld):
            continue
        except Denied as error:
            denied = error
    if denied is not None:
        raise denied
