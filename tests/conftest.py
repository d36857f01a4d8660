"""Annotated shapes and types are checked while tests run; examples that are made up are the same each time."""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("kanrun.engine", "beartype.beartype")
settings.register_profile("same", derandomize=True)
settings.load_profile("same")
