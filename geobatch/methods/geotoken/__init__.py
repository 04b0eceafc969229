"""GeoToken (arXiv 2511.01082): a place is a sequence of S2 tokens, written one by one while reading the neighbours."""
