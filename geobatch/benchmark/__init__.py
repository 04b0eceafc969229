"""Data whose places are known, and figures against them.

truth, label    coordinates from CSV, Parquet or EXIF, matched to images; the stage that gives them to labelled pictures
columns, lookup what truth stands on at millions of rows: three columns out of a file, names found by their digests
metrics         shares within the field's radii, intervals, calibration
evaluate        a table of places against truth, by every choice the table offers; `evaluation` is what it returns
named           what names of published tiles tell: places, buildings
exact, retrieval the best tiles of each text, exactly; R@k and L@m of them, both ways, among all and among the nearest 100
world, deposit  the embedded world: crops of the Blue Marble, laid down as archives
chart, landscape, wording other renderings of the Earth, what can be known of a place from them, and that as texts
"""
