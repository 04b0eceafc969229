"""The river: the only place that knows the order of things.

flow            archive -> plan -> Read -> stages -> Write -> table, resumable, for every job that reads an archive
geolocate       pictures -> places, by any method
build_gallery   labelled pictures -> vectors that know their place -> index
retrieval       a gallery of texts against one of tiles -> figures
align, train    labelled pictures -> encoder; vectors and neighbours -> GeoToken
caption         labelled pictures -> geo-captions worth learning; finetune: captions -> GeoLocSFT's student
"""
