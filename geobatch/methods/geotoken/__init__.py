"""GeoToken (arXiv 2511.01082): a place is a sequence of S2 tokens, written one by one while reading the neighbours.

    Embed      picture -> v, a unit vector (the paper's [image | location | text], three; the demo's, one)
    Retrieve   v -> the M gallery images with the largest <v, v_m>
    Sample     p(s | v, neighbours) = Π_t p(s_t | s_<t, v, neighbours), an encoder-decoder; K = 30 draws at T = 0.7 (section 3)
    Reward     draws -> log-odds that each lies within 200 km, where the selector asks for them
    Select     draws, neighbours -> one place
    Judge      picture, places -> the place, by a multimodal LLM that chooses from the pool or answers with it as hints

Training minimises Σ_t w_t · CE(s_t) / Σ_t w_t with w_t falling from 2 to 1 (w_t = 2 - t/20).

Where we deviate, each a setting that `GeoToken.paper()` and `Sampling` leave as published: children may be numbered by
quadrant instead of along the Hilbert curve, a token's embedding may carry a summary of its prefix, each step may be told
where the neighbours lie in the cell so far (`relative`), the first neighbour may be the place between the gallery's images
(`neighbours`), a neighbour's cosine may be given as a number, the place may be chosen by expected loss over the draws
(`select`), and only images that the model is unsure of may go to the judge, whose unusable replies leave the selector's place
(`judge`). Sampling shares prefixes between the K draws, which changes its cost and not its distribution (`draws`).

Nothing is imported here: a Retrieve actor must not pay two seconds for torch because Sample lives beside it.
"""
