"""Tools that hold memory: each is opened once by an actor and asked many times.

vision, pixels  image encoders of `transformers`: pictures to unit vectors; heads gives them several views
text, geocode   captions to vectors, and the towns that captions speak of
gps             the location encoder: coordinates to vectors
gallery         FAISS over vectors that know their place
surface         places between gallery images
generator       multimodal LLMs behind a desk; served (vLLM), plain (transformers), remote, scripted compute for it
answer, lenient what their replies say: a place, or why there is none
"""
