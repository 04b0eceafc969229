"""The Earth, in numpy alone: points, distances, S2 cells, and the choice of one place out of many."""
