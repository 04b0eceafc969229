"""NGCG (arXiv 2604.10721): a multimodal LLM as the encoder that finds the tile a text describes.

    Encoder    text or tile -> v, the last token's hidden state in InternVL3.5, SmolVLM or Qwen2.5-VL, of unit length
    Fit        LoRA (r 16, alpha 128, DoRA) by InfoNCE: L = -log( exp<t_i, s_i>/τ / Σ_j exp<t_i, s_j>/τ ), τ = 0.03, from text
               t to tile s of the same place, against the other tiles of all workers
    Embed      texts, tiles or photographs -> vectors, by `transformers` or vLLM
    Match      vector -> the k most similar tiles of a gallery; the best one's centre is the place, its footprint how sure
    Describe   photograph -> words about what a tile would show, where the words shall search

Text and tile go through one network without a projection. The text is the raw caption, at most 300 tokens; the tile stands for
the bare image token. What the paper calls the end of text is the last token that is no padding: its code appends none.

Where we deviate. The released code evaluates with alpha 64 what it trained with 128, and with an end-of-text token before each
prompt that training never saw: here an adapter brings its alpha, and one function (`inputs`) makes what training and evaluation
read. It fills its batches with pictures of one building, each other's false negatives: ours hold a place once. It opens the
pictures that it means to change; ours are changed. Special tokens spelled out in a text are letters. SmolVLM's tiles go to 512
pixels in one step, not up to 2,048 and back. Negatives are shared by all workers, with their gradients. Choices that the paper
has not: both directions of the loss, a learnt τ, hard negatives, nested dimensions, training the whole network, the mean of all
tokens; each is off.

The authors' weights are not released: every figure here is of tiny models, with random weights or trained here.

Nothing is imported here: a Match actor must not pay for torch because Fit lives beside it.
"""
