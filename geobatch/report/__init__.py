"""Pictures of a run: places on the map, accuracy over distance, the figures as a table."""
