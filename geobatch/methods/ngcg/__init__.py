"""NGCG (arXiv 2604.10721): a multimodal LLM as the encoder that finds the tile a text describes."""
