"""Text as a literal of Hydra's override grammar."""

from __future__ import annotations

import re

from hydra.core.override_parser.types import Quote, QuotedString

_OPENING = re.compile(r"(\\*)\$\{")


def quoted(text: str) -> str:
    """`text` in quotes, as Hydra reads it back; an interpolation `${...}` in it stays one."""
    quote = Quote.double if "'" in text and '"' not in text else Quote.single
    return QuotedString(text, quote).with_quotes()


def literal(text: str) -> str:
    """`text` in quotes, read back letter by letter: `${` in it is not an interpolation."""
    return quoted(_OPENING.sub(lambda match: match[1] * 2 + r"\${", text))
