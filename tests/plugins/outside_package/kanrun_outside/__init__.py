"""Another package's additions to kanrun. Each module is named by an entry point, and none loads torch when imported."""
