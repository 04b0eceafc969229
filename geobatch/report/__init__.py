"""Pictures of a run: a page with a map that any browser opens, plots for papers, and files for other programs."""
