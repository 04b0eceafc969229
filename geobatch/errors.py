"""What can go wrong, drawn as a tree.

    GeobatchError
    ├── UserError        a bad argument, a refused output: one line that ends with what to do; exit status 2
    ├── MachineError     a worker, a disk, a network: raised, retried a bounded number of times
    └── Rejection        an error of data: becomes a row (stage, reason, detail), never an exception that leaves a stage

Errors of data are rows; errors of machines are raised. A stage raises or returns `Rejection` for one image; everything else
that it raises is taken for the machine's fault, unless the rest of the batch goes through (see `geobatch.stage`).
"""

from __future__ import annotations

#: The closed list of reasons an image can be rejected for, by the stage that may say so, with what the user can do.
REASONS: dict[str, str] = {
    # read
    "missing": "the object was listed but is gone; run again to plan without it",
    "changed": "the object changed between listing and reading; run again to locate its new bytes",
    "unreadable": "the store kept refusing or failing after all retries; check permissions and the store's health",
    "too_large": "more encoded bytes than --max-bytes; raise it if such images are wanted",
    "empty": "the object or member has no bytes",
    "broken_archive": "the tar, zip, Parquet or text file that holds it is damaged from here on, or parts of a split tar "
    "are missing; rebuild or complete it",
    # a text in an image's place
    "not_a_text": "a row that holds no text: no UTF-8, or no row of its file's form; mend that row",
    "no_text": "a picture for training that no text describes; complete the annotations or ignore it",
    # decode
    "not_an_image": "no decoder knows these bytes",
    "unsupported": "a known format in a variant that no decoder here reads",
    "broken": "truncated or corrupt",
    "too_many_pixels": "more pixels than --decode.max-pixels; raise it if such images are wanted",
    "out_of_memory": "decoding asked for more memory than its sandbox may take",
    "timeout": "decoding, or the model's reply, took longer than its deadline",
    "crashed": "it killed its decoder's sandbox, or the model's engine whenever it was asked",
    # a multimodal LLM
    "too_long": "the prompt with its picture is longer than the model's context; raise --geolocsft.generator.context, or "
    "--ngcg.generator.context",
    "unparsed": "no reply could be read as a place, or as a description; the detail begins with what was replied",
    "refused": "the model declined to answer",
    "out_of_range": "the reply's coordinates are not on Earth",
    "cut_off": "the reply reached the token limit before its answer was complete; raise the limit",
    # a search among tiles
    "no_tile": "no tile of the gallery lies where the row may be, or the area's file does not name it; widen or complete it",
    # any later stage
    "no_place": "an image for a gallery or for training without coordinates in the truth file or its EXIF",
    "failed": "the stage raised on this image while the rest of its batch went through; the detail has the error",
}


class GeobatchError(Exception):
    """The root of every error geobatch raises on purpose."""


class UserError(GeobatchError):
    """A bad argument or a state the user must resolve. The message is one line and ends with what to do."""


class MachineError(GeobatchError):
    """A fault of a worker, a disk or a network that retries did not cure."""


class Rejection(GeobatchError):
    """One image that cannot be placed.

    Args:
        reason: a key of `REASONS`.
        detail: what exactly, for a person; cut to 300 characters.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is no reason; use one of {', '.join(REASONS)}")
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail[:300]
