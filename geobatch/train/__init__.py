"""Tools that learn.

loop      Ray Train around anything that makes its own steps; resumes by name
infonce   contrastive losses across workers, with gradients
lora      adapters, their counts and their files; merge melts them into their base; shard spreads a base over workers
augment   what a camera might have done to a training picture
"""
