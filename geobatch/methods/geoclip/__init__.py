"""GeoCLIP (NeurIPS 2023, arXiv 2309.16020): pictures and places in one space, and 100,000 places to choose from.

    Embed    picture -> v, CLIP ViT-L/14's image embedding through an MLP 768 → 768 → 512, of unit length (section 3.2)
    Match    p(g | v) = softmax_g(s · <v, l(g)>) over the 100,000 places g, with the location encoder l (section 3.1) and the
             learned scale s = 39.7; the place is the likeliest (section 3.3)

None of the newer methods here has published weights; this one has, so it locates real photographs on the first day. The
weights are the authors' own files, 42 MB in their package (`weights`), read by our modules: their code is neither
imported nor needed. On the same backbone features and probabilities are theirs to 1e-5 (`tests/methods/geoclip`).

Where we deviate: the features of the places are made once a machine and kept (`places`), where the original encodes all of
them again for every picture; the place may be chosen by expected loss over the likeliest places instead; and each place comes
with the probability within the published radii and with the radius and the S2 cell that hold 90 %, read off the softmax
(`density`). That is what the softmax says, never calibrated.

`Match` takes any location encoder and any places, so that an encoder aligned here answers in the same way.
"""
