"""GeoLocSFT (arXiv 2506.01277): a multimodal LLM, tuned on a few thousand reasoned captions, says where a picture was taken.

    Caption    picture, truth -> geo-caption of a teacher: 25 km context, 1 km features, regions eliminated, answer (section 3)
    curate     captions -> those worth learning: near the truth, reasoned, no copies, balanced over the Earth
    Fit        LoRA of rank 32 on the language model; loss on the answer's tokens, -Σ log p(y_t | y_<t, picture, prompt)
    Ask        picture -> K replies: one greedy, K - 1 drawn (multi-candidate reasoning, section 4)
    Agree      replies -> the place with the least expected loss under them, and how far they agree
    health     a finished run -> whether the model has collapsed (section 5)

Where we deviate: the answer's form is a setting ("tag" as published, "json" as in the released code). LoRA's alpha, which the
paper does not state, is 64. The coordinates' digits may weigh more in the loss (`Tuning.coordinate_weight`, off). The paper's
consensus of ten answers gained almost nothing; ours weighs each by the probability of its own characters and minimises an
expected loss on the sphere (`agree`). Hints from a gallery are G3's idea, not this paper's (`hint`). Student and teacher are
told things in our own words. The published models are named in `config`; no weights of the tuned ones exist, so every figure
here is of tiny models with random weights, trained here.

Nothing is imported here: an Agree actor must not pay for torch because Fit lives beside it.
"""
