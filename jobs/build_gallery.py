"""Embeds labelled images, map tiles or texts and indexes them: the gallery that retrieval searches.

    python jobs/build_gallery.py --archive .demo/gallery_crops --truth .demo/gallery.csv --encoder .demo/encoder \\
        --output .demo/gallery
    python jobs/build_gallery.py --archive s3://maps/tiles --places xyz --encoder models/ngcg --output models/tiles
    python jobs/build_gallery.py --archive test.json --texts caption --places none --encoder models/ngcg --output models/queries
"""

import sys

import tyro

from geobatch.pipeline.build_gallery import BuildGallery, build_gallery
from geobatch.pipeline.entry import guarded


def main(config: BuildGallery) -> None:
    build_gallery(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(BuildGallery, description=__doc__)))
