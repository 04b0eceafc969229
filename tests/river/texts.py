"""GeoText-1652 and CVG-Text in miniature through the jobs of NGCG, in one process, so that Ray starts once.

python -m tests.river.texts FOLDER STEPS    which has `sets.json`: what was laid down
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from geobatch.actors import Hands, start
from geobatch.methods.ngcg.config import Tuning, Validation
from geobatch.methods.ngcg.serve import Serving
from geobatch.methods.ngcg.small import Small
from geobatch.pipeline.build_gallery import BuildGallery, build_gallery
from geobatch.pipeline.ngcg_train import NgcgTrain, ngcg_train
from geobatch.pipeline.retrieval import EvaluateRetrieval, evaluate_retrieval
from geobatch.train.loop import Loop


def through(folder: Path, steps: int) -> None:
    """Trains on the sets that are to be trained on, builds both galleries of each test split and judges; a folder each.

    A set that is not trained on is embedded by the model of the one before.
    """
    model = ""
    for name, one in json.loads((folder / "sets.json").read_text()).items():
        at = folder / name
        if one["trained"]:
            model = str(at / "model")
            _train(one, model, steps)
        shared = {"encoder": model, "workers": 1, "serving": Serving(backend="transformers", dtype="float32")}
        build_gallery(BuildGallery(archive=one["test"], output=str(at / "tiles"), places=one["places"], **shared))
        queries = {"archive": one["test_annotations"], "texts": "auto", "places": one["places"]}
        build_gallery(BuildGallery(**queries, output=str(at / "texts"), **shared))
        evaluate_retrieval(
            EvaluateRetrieval(
                queries=str(at / "texts"),
                gallery=str(at / "tiles"),
                benchmark=name,
                nearest=one["nearest"],
                output=str(at / "figures"),
                bootstrap=200,
            )
        )


def _train(one: dict[str, Any], output: str, steps: int) -> None:
    ngcg_train(
        NgcgTrain(
            archive=one["train"],
            annotations=one["train_annotations"],
            output=output,
            base="tiny",
            small=Small(width=64, layers=2, vision_width=64, vision_layers=2, words=600),
            tuning=Tuning(whole=True, batch=12, steps=steps, learning_rate=2e-3, bf16=False, temperature=0.1),
            validation=Validation(share=0.1),
            loop=Loop(workers=1),
            workers=1,
        )
    )


if __name__ == "__main__":
    start([Hands(stage=Loop, workers=6)])  # Ray makes as many processes as CPUs before any is asked for
    through(Path(sys.argv[1]), int(sys.argv[2]))
