"""TAB completion of overrides by Hydra's own completion engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any


def complete_override(ctx: Any, incomplete: str) -> list[str]:
    """The words that may go on from `incomplete`, for Typer's completion of the OVERRIDES argument."""
    words = [str(word) for word in ctx.params.get("overrides") or ()]
    word, split = incomplete, False
    if typed := _bash_words():
        # bash splits at `=`, so that neither the words nor the incomplete one are whole.
        *words, word = typed
        split = "=" in word
        words = [other for other in words if "=" in other]
    completed = completions(ctx.info_name, words, word)
    cut = word.rindex("=") + 1 if split else 0
    return [whole[cut:] for whole in completed]


def completions(command: str, words: Sequence[str], word: str) -> list[str]:
    """All groups, choices, keys and values that begin with `word`, given the other overrides `words`.

    A single one that ends with `=`, `.` or `/` is followed by what may come after it, so that the shell
    does not end the word there.
    """
    from kanrun.launch.composing import opened
    from kanrun.launch.request import Request

    request = Request(command)
    with opened(request) as loader:
        found = _query(loader, request, words, word)
        while len(found) == 1 and found[0] != word and found[0].endswith(("=", ".", "/")):
            following = [name for name in _query(loader, request, words, found[0]) if name != found[0]]
            if not following:
                break
            found = [found[0], *following]
    return found


def _query(loader: Any, request: Any, words: Sequence[str], beginning: str) -> list[str]:
    """What Hydra's completion engine knows to begin with `beginning`."""
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin as Engine
    from hydra.types import RunMode

    from kanrun.launch.composing import readable
    from kanrun.launch.quoting import hydra_words
    from kanrun.launch.sentences import CONFIGURATION_ERRORS

    if beginning.startswith("study="):
        studies = loader.get_group_options(f"study/{request.module}")
        return [f"study={name}" for name in studies if f"study={name}".startswith(beginning)]
    key, file = Engine._get_filename(beginning)
    if file is not None:
        return [f"{key}{name}" for name in Engine.complete_files(file)]
    before = readable(hydra_words(words, request.command, multirun=True))
    try:
        found, is_group = Engine(loader)._query_config_groups(beginning, request.module, before)
        if not is_group:
            found += Engine._get_matches(loader.load_configuration(request.module, before, RunMode.MULTIRUN), beginning)
    except CONFIGURATION_ERRORS:
        return []
    return sorted(_plain(name) for name in set(found) if not _hidden(name, beginning))


def _hidden(name: str, word: str) -> bool:
    """Schemas are no choices, and Hydra's own groups are in the way of those who do not ask for them."""
    bare = name.lstrip("+~")
    return bare.startswith("schema") or (bare.startswith("hydra") and not word.lstrip("+~").startswith("h"))


def _plain(name: str) -> str:
    """`study/` is written as `study=`: the command's own studies need no folder."""
    return "study=" if name == "study/" else name


def _bash_words() -> list[str]:
    """The words typed so far as the user sees them, the last one incomplete; empty in other shells."""
    if "COMP_WORDS" not in os.environ or not os.environ.get("_KANRUN_COMPLETE", "").endswith("bash"):
        return []
    pieces = os.environ["COMP_WORDS"].split("\n")[: int(os.environ.get("COMP_CWORD", "0")) + 1]
    words: list[str] = []
    for piece in pieces:
        if words and (piece == "=" or words[-1].endswith("=")):
            words[-1] += piece
        else:
            words.append(piece)
    return words
