"""How a job's archive and its output are reached, and that both answer, before anything is started.

One `--store` serves both until something is named for one of them: another endpoint, another account's profile, a key that
seals what is written. Credentials that are missing, wrong or expired, and buckets that do not exist, are found here, in a
second, and not once a model is loaded and a cluster waits.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from geobatch.store import Store, StoreConfig, StoreOverride, split


class Asked(Protocol):
    """What a job says about its stores."""

    @property
    def archive(self) -> str:
        """Where images lie."""

    @property
    def output(self) -> str:
        """Where the table goes."""

    @property
    def store(self) -> StoreConfig:
        """How buckets are reached."""

    @property
    def archive_store(self) -> StoreOverride:
        """What is different about the archive's."""

    @property
    def output_store(self) -> StoreOverride:
        """What is different about the output's."""


class Reach(NamedTuple):
    """How both are reached."""

    archive: StoreConfig
    output: StoreConfig


def reached(asked: Asked) -> Reach:
    """How archive and output are reached; a bucket is asked for one page of its listing.

    Raises:
        UserError: credentials are missing, wrong or expired, or there is no such bucket.
        MachineError: a store does not answer.
    """
    reach = Reach(asked.archive_store.over(asked.store), asked.output_store.over(asked.store))
    for uri, config in ((asked.archive, reach.archive), (asked.output, reach.output)):
        if split(uri).bucket is not None:
            Store(config).require_credentials(uri)
    return reach
