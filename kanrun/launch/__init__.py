"""Only package that imports Hydra."""
