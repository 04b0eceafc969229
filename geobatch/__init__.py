"""geobatch: where on Earth was each photograph in a bucket taken.

A river and its houses: images flow from an archive to a table (`pipeline`); each published method is one house beside the
river (`methods`); shared tools lie below (`archive`, `image`, `engine`, `train`, `sink`, `geo`, `store`).
"""
