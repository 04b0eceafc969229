"""The one function that makes a text or a tile into what the network reads, for training, galleries and queries alike.

The released code puts an end-of-text token before what it evaluates and not before what it trains on. Here there is one
`Inputs`, made of the base's files and an `Encoding`, and no other way in.

A text is its tokens, with whatever the tokenizer adds by itself (nothing, for the three families), cut at `text_tokens`.
Special tokens that a text spells out ("<image>") stay letters: a caption must not open a picture that is not there. A tile is
resized to one square by Pillow with the family's own filter, then scaled and normalised with the family's
numbers. `squared` is that first half: a picture that went through it is left as it is by the processors that vLLM runs.

Padding goes to the right, behind what causal attention can see, and nothing depends on that. Against the processors of
`transformers` on squared pictures: the same tokens, pixels within 1e-6. Given the choice those resize in torch, within 1 level
of 255 of Pillow, and SmolVLM's to 2,048 pixels before it comes down to 512.

On one core a tile of 512 pixels takes 4 ms to become 448, one of 1,024 pixels 11 ms, one of the right side nothing; scaling and
cutting 1.4 ms for InternVL, 2.7 for SmolVLM, 4.5 for Qwen. The processors of `transformers` take 6, 22 and 10 ms from 1,024.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from geobatch.engine.pixels import Pixels
from geobatch.errors import Rejection, UserError
from geobatch.methods.ngcg import families
from geobatch.methods.ngcg.config import Encoding

#: What the network is called with: `input_ids` and `attention_mask` (N, L), and of tiles what carries their pixels.
Batch = dict[str, Tensor]
Picture = NDArray[np.uint8]


class Inputs:
    """Texts and tiles as batches for one base.

    Args:
        base: folder or hub name of the model.
        encoding: see `Encoding`.
        config: the base's, where it was read before.

    Attributes:
        family, tokenizer: the base's.
        side: pixels of a tile, resolved.
        prompt: the tokens of a tile.
        pixels: the family's scale, mean and deviation.

    Raises:
        UserError: a base of another family, a side that its image tokens do not cover, or more tokens than it takes.
    """

    def __init__(self, base: str, encoding: Encoding, config: Any = None) -> None:
        self.config = transformers.AutoConfig.from_pretrained(base) if config is None else config
        self.encoding, self.family = encoding, families.of(self.config)
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(base)
        self.tokenizer.truncation_side = "right"  # whatever its file says: a caption is cut at its end
        said: Any = transformers.AutoImageProcessor.from_pretrained(base)
        self.side = encoding.side or self.family.own(self.config, said)
        self.pixels = Pixels(size=None, scale=said.rescale_factor, mean=tuple(said.image_mean), deviation=tuple(said.image_std))
        self.filter = Image.Resampling(int(said.resample))
        self.prompt = self._ended(self.tokenizer(self.family.prompt(self.side, self.config))["input_ids"])
        room = self.config.get_text_config().max_position_embeddings
        if max(encoding.text_tokens, len(self.prompt)) > room:
            raise UserError(
                f"{base} takes {room} tokens, not {encoding.text_tokens} of a text or {len(self.prompt)} of a tile; lower "
                "text_tokens, or the side"
            )

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, as many as are read.

        Raises:
            Rejection: a text has none ("empty").
        """
        room = self.encoding.text_tokens - self.encoding.end
        found = self.tokenizer(list(texts), truncation=True, max_length=room, split_special_tokens=True)["input_ids"]
        for row, ids in enumerate(found):
            if not ids:
                raise Rejection("empty", f"text {row} of {len(found)} has no token")
        return [self._ended(ids) for ids in found]

    def texts(self, texts: Sequence[str]) -> Batch:
        """A batch of texts; raises as `tokens`."""
        return self.padded(self.tokens(texts))

    def pictures(self, pictures: Sequence[Picture]) -> Batch:
        """A batch of tiles, (H, W, 3) uint8 of any size."""
        squares = torch.from_numpy(np.stack([self.squared(picture) for picture in pictures])).permute(0, 3, 1, 2)
        # Contiguous while it is bytes: the floats inherit the order, and the families cut and fold them.
        carried = self.family.arranged(self.pixels.normalise(squares.contiguous().float()), self.config)
        return self.padded([self.prompt] * len(pictures)) | carried

    def squared(self, picture: Picture) -> Picture:
        """A picture as (side, side, 3) uint8."""
        if picture.shape[:2] == (self.side, self.side):
            return picture
        return np.asarray(Image.fromarray(picture).resize((self.side, self.side), self.filter))

    def padded(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Tokens of any lengths as `input_ids` and `attention_mask`, padded on the right."""
        longest, pad = max(map(len, rows)), self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}

    def _ended(self, ids: list[int]) -> list[int]:
        return [*ids, self.tokenizer.eos_token_id] if self.encoding.end else ids
