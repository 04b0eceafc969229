"""A published data set through every job of GeoToken, in one process, so that Ray starts once.

python -m tests.river.published FOLDER    which has `training` and `benchmark`: archive TAB truth
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from geobatch.actors import Hands, start
from geobatch.pipeline.align import GeoTokenAlign, align_encoder
from geobatch.pipeline.build_gallery import BuildGallery, build_gallery
from geobatch.pipeline.evaluate import Evaluate, evaluate_places
from geobatch.pipeline.geolocate import GeolocateBucket, geolocate
from geobatch.pipeline.train import GeoTokenTrain, train
from geobatch.train.loop import Loop


def through(folder: Path) -> None:
    """Align, build_gallery, train, geolocate, evaluate; `account.json` beside what they leave."""
    archive, truth = (folder / "training").read_text().split("\t")
    encoder, gallery, model = (str(folder / name) for name in ("encoder", "gallery", "model"))
    loop = Loop(workers=1)
    labelled = {"archive": archive, "truth": truth, "workers": 1}
    align_encoder(GeoTokenAlign(**labelled, output=encoder, preset="small", steps=3, batch=64, loop=loop))
    build_gallery(BuildGallery(**labelled, output=gallery, encoder=encoder))
    card = train(
        GeoTokenTrain(**labelled, output=model, encoder=encoder, gallery=gallery, preset="small", steps=4, batch=64, loop=loop)
    )
    archive, truth = (folder / "benchmark").read_text().split("\t")
    account = geolocate(GeolocateBucket(archive=archive, output=str(folder / "places"), model=model, workers=1))
    evaluate_places(
        Evaluate(
            places=str(folder / "places"), truth=truth, output=str(folder / "evaluation"), count_missing=True, bootstrap=50
        )
    )
    (folder / "account.json").write_text(json.dumps({"card": card, "account": account}))


if __name__ == "__main__":
    start([Hands(stage=Loop, workers=6)])  # Ray makes as many processes as CPUs before any is asked for
    through(Path(sys.argv[1]))
