"""Locates every image of a bucket: one row an image, in one Parquet table. Type it again to take up a run that died.

python jobs/geolocate_bucket.py --archive s3://bucket/prefix --output s3://bucket/located --model .demo/model
"""

import sys

import tyro

from geobatch.pipeline.entry import guarded
from geobatch.pipeline.geolocate import GeolocateBucket, geolocate


def main(config: GeolocateBucket) -> None:
    geolocate(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(GeolocateBucket, description=__doc__)))
