"""What the student's job may write over; the rest is the river's."""

from __future__ import annotations

from pathlib import Path

import pytest

from geobatch.errors import UserError
from geobatch.pipeline.finetune import GeoLocSftTrain, finetune


def test_a_student_takes_the_place_of_a_student_alone(tmp_path: Path) -> None:
    adapter = tmp_path / "models/adapter"
    adapter.mkdir(parents=True)
    asked = GeoLocSftTrain(captions="c", output=str(tmp_path / "models"), base=str(tmp_path / "none"))
    with pytest.raises(UserError, match="models holds something else than a model of this job; choose another --output"):
        finetune(asked)
    (adapter / "history.json").write_text("[]")  # its driver died before the card
    with pytest.raises(UserError, match="there is no base model folder"):
        finetune(asked)
    (tmp_path / "models/geobatch.json").write_text('{"method": "ngcg"}')
    with pytest.raises(UserError, match="something else"):
        finetune(asked)
