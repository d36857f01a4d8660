"""The commands of kanrun."""
