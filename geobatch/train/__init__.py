"""Tools that learn.

loop      Ray Train around anything that makes its own steps; resumes by name
infonce   contrastive losses across workers, with gradients
caching   gradients of such losses over batches that no memory holds
finite    steps that are no numbers, refused
lora      adapters, their counts and their files; merge melts them into their base; shard spreads a base over workers
tower     adapters on image and text encoders
augment   what a camera might have done to a training picture
"""
