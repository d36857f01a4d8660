"""Shapes and types that the engine's annotations promise are checked while tests run."""

from jaxtyping import install_import_hook

install_import_hook("kanrun.engine", "beartype.beartype")
