"""Has a teacher write geo-captions for images with known places and curates them. Type it again to take up a run that died.

    python jobs/geolocsft_caption.py --archive .demo/training --truth .demo/training.csv --teacher /models/teacher \\
        --output .demo/captions

Without a model, answers alone: --teacher none. Through a service outside the cluster, which pictures and coordinates are then
sent to, with the key in OPENAI_API_KEY:

    python jobs/geolocsft_caption.py --archive .demo/training --truth .demo/training.csv --output .demo/captions \\
        --endpoint.url https://api.example.com/v1 --endpoint.model NAME
"""

import sys

import tyro

from geobatch.pipeline.caption import GeoLocSftCaption, caption
from geobatch.pipeline.entry import guarded


def main(config: GeoLocSftCaption) -> None:
    caption(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(GeoLocSftCaption, description=__doc__)))
