"""Tools that learn.

loop      Ray Train around anything that makes its own steps; resumes by name
infonce   contrastive losses across workers, with gradients
augment   what a camera might have done to a training picture
"""
