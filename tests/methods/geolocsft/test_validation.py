"""What a training may not pass over: a step that is no number, and in validation a reply that the token limit ended."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from geobatch.engine.chat import Chat
from geobatch.errors import UserError
from geobatch.methods.geolocsft.config import Tuning, Validation
from geobatch.methods.geolocsft.prompts import tag
from geobatch.methods.geolocsft.train import Fit
from geobatch.train.lora import LoRA
from tests.engine import tiny
from tests.methods.geolocsft import pupil

QUICK = Tuning(lora=LoRA(rank=2, alpha=4), batch=2, micro_batch=2, steps=2, bf16=False, checkpointing=False)


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A base that trains on four crops and keeps two of them out."""
    folder = tmp_path_factory.mktemp("world")
    base = pupil.base(tiny.gemma3, folder / "base")
    path, _ = pupil.examples(folder, base, pupil.crops(4))
    held = pupil.Examples(path, pupil.DECODE, np.arange(2))
    encoder = pupil.Encoder(Chat(base), "tag")
    return Fit(base, QUICK, Validation(tokens=200, batch=2), pupil.opened(path), held, encoder)


def test_a_reply_that_the_limit_ended_is_no_answer_in_validation(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reply is whole and of the truth; the second's last number may have been on its way to another."""
    (latitude,), (longitude,) = fit.held.places([0])
    texts = [tag(latitude, longitude), "<answer>\nlat: 48.85840\nlon: 2.2"]
    for ends, answered in ((2, 1.0), (1, 0.5)):
        tokens = [fit.encoder.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        tokens = [each + fit.encoder.end_ids * (row < ends) for row, each in enumerate(tokens)]
        longest = max(map(len, tokens))
        ids = torch.stack([pad(torch.tensor(each), (0, longest - len(each)), value=fit.encoder.pad_id) for each in tokens])
        monkeypatch.setattr(fit.student, "write", lambda *_, ids=ids: ids)
        assert fit.written([fit.held.picture(row) for row in range(2)]) == [(texts[0], True), (texts[1], ends == 2)]
        measured = fit.validate()
        assert measured["answered"] == answered and measured["within_1km"] == 0.5


@pytest.mark.parametrize("what", ["gradient", "weight"])
def test_a_step_without_numbers_is_not_taken(fit: Fit, what: str) -> None:
    last = list(fit.parameters.values())[-1]
    if what == "weight":
        last.data.fill_(torch.nan)
    else:
        last.register_hook(lambda gradient: gradient * torch.inf)
    before = [each.detach().clone() for each in fit.parameters.values()]
    with pytest.raises(UserError, match=r"the loss of step 1 is .*; lower --tuning.learning-rate or set --tuning.no-bf16"):
        fit.advance()
    assert fit.step == 0 and not fit.history
    for each, was in zip(fit.parameters.values(), before, strict=True):
        assert torch.equal(each.nan_to_num(), was.nan_to_num())
