"""Only package that imports Hydra: from arguments to a study, which `kanrun.study` runs."""
