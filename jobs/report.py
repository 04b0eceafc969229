"""Makes one self-contained HTML page of a table of places, with a map; GeoJSON, CSV and XMP sidecars on request.

python jobs/report.py --places s3://bucket/located --truth truth.csv --evaluation evaluation --output report.html
"""

import sys

import tyro

from geobatch.pipeline.entry import guarded
from geobatch.pipeline.report import Report, report


def main(config: Report) -> None:
    report(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(Report, description=__doc__)))
