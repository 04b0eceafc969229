"""An NGCG encoder by its folder: what serves it, and the fingerprint by which a gallery knows its own encoder.

A trained model's folder has a card. Where it holds merged weights, these are served and the base need not be there at all;
else the base is found beside the folder, by its path, or on the hub, and must be the one that the adapter was trained on. A
multimodal LLM as it was published has no card and the default encoding.

The fingerprint is of what decides a vector, weights and encoding, wherever the folder lies and whoever serves it: an adapter
and its merged weights have one and the same, though on a base of bfloat16 they lie 1e-3 apart where they compute in float32
(`geobatch.methods.ngcg.encoder`), as the dtypes of serving do, which are not in it either. A gallery's record keeps it as
"encoder".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from geobatch.engine.gallery import read_record
from geobatch.errors import UserError
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.inputs import Inputs
from geobatch.methods.ngcg.serve import Model
from geobatch.pipeline.folder import (
    CARD,
    base_of,
    beside,
    card,
    fingerprint,
    fingerprint_of,
    fingerprint_of_base,
    has_card,
    is_path,
)
from geobatch.pipeline.folder import local_folder as local
from geobatch.store import Store

#: What the card of such a model gives as its method.
METHOD = "ngcg"


@dataclass(frozen=True)
class Opened:
    """An encoder that can be served on this machine.

    Fields:
        model: its folders, and how it encodes.
        fingerprint: of what decides a vector.
        card: what its folder says of itself; empty for a model as it was published.
    """

    model: Model
    fingerprint: str
    card: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def _inputs(self) -> Inputs:
        return Inputs(self.model.weights, self.model.encoding)

    @property
    def side(self) -> int:
        """Pixels of a tile as the encoder reads it, both ways."""
        return self._inputs.side

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return self.model.encoding.dimensions or int(self._inputs.config.get_text_config().hidden_size)

    def suits(self, gallery: Path) -> None:
        """A gallery made by hand, which has no source, may be of nobody; older ones do not say what they hold.

        Raises:
            UserError: the gallery at that folder is of another encoder, or of texts.
        """
        record = read_record(gallery)
        if record.get("source", {}).get("holds") == "texts":
            raise UserError(
                f"{gallery} holds texts, and places are found among tiles; give one that jobs/build_gallery.py made of "
                "pictures as --gallery"
            )
        why = ""
        if record["dimension"] != self.dimension:
            why = f"its vectors have {record['dimension']} numbers, this one's {self.dimension}"
        elif record.get("encoder") not in ((self.fingerprint,) if record.get("source") else (None, self.fingerprint)):
            why = "of other weights, or with another encoding"
        if why:
            raise UserError(f"{gallery} is a gallery of another encoder ({why}); "
                            "build it with jobs/build_gallery.py --encoder and this model")  # fmt: skip


def open_model(store: Store, named: str) -> Opened:
    """The encoder that a path, an s3:// prefix or a hub name names.

    Raises:
        UserError: there is none, its card is of another method or another version, or its base is another than it was.
    """
    if not has_card(store, named):
        base = base_of(store, named, outline=True)
        if not (Path(base) / "config.json").is_file():
            raise UserError(f"{named} holds no multimodal LLM (no config.json) and no {CARD}; give a folder of ngcg_train.py, "
                            "or the whole folder of a published model")  # fmt: skip
        model = Model(base=base)
        return Opened(model, _signed(fingerprint_of_base(base), None, model.encoding))
    folder = local(store, named, "model")
    about = card(folder)
    if about.get("method") != METHOD:
        raise UserError(f"{named} is a model of {about.get('method')}, not of {METHOD}; give one of jobs/ngcg_train.py")
    encoding, adapter, merged = _encoding(about, named), str(about.get("adapter") or ""), str(about.get("merged") or "")
    if not adapter and not merged:
        raise UserError(f"the card of {named} names neither an adapter nor merged weights; train it again")
    trained = fingerprint_of(folder / adapter, leave=("README.md",)) if adapter else None
    whole = str(folder / merged) if merged else None
    if whole is not None:
        known = about.get("base_fingerprint") if adapter else None
        signed = _signed(known or fingerprint_of_base(whole), trained, encoding)
        return Opened(Model(base=whole, merged=whole, encoding=encoding), signed, about)
    base = _base(store, named, folder, about)
    identity = fingerprint_of_base(base)
    if about.get("base_fingerprint") not in (None, identity):
        raise UserError(f"{base} is not the base that {named} was trained on, or has changed since; restore it or train again")
    return Opened(
        Model(base=base, adapter=str(folder / adapter), encoding=encoding), _signed(identity, trained, encoding), about
    )


def _base(store: Store, named: str, folder: Path, about: dict[str, Any]) -> str:
    base = str(about["base"])
    return base_of(store, beside(named, base) if is_path(base) or (folder / base).is_dir() else base, outline=True)


def _encoding(about: dict[str, Any], named: str) -> Encoding:
    said = about.get("encoding", {})
    unknown = sorted(set(said) - {each.name for each in fields(Encoding)})
    if unknown:
        raise UserError(f"{named} encodes by {', '.join(unknown)}, unknown to this version; use the one it was made with")
    return Encoding(**said)


def _signed(base: str, adapter: str | None, encoding: Encoding) -> str:
    return fingerprint({"base": base, "adapter": adapter, "encoding": asdict(encoding)})
