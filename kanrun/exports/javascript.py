"""Export of models as one JavaScript file without dependencies, for web pages and for Node.

The file consists of the text of `runtime.js` and the model as data: the document that `in_pieces`
returns (see `document.py`).
"""

from __future__ import annotations

import json
from importlib import resources

from kanrun.errors import UsageError
from kanrun.exports.document import Document

#: Kinds of layers that `runtime.js` computes.
LAYERS = ("splines", "radial", "dense")


def javascript_source(pieces: Document) -> str:
    """Return the text of the file; `pieces` is the document that `in_pieces` returns.

    Raises UsageError if the file cannot compute a layer or a function of the model.
    """
    for layer in pieces["layers"]:
        if layer["kind"] not in LAYERS:
            raise UsageError(
                "--format javascript computes splines, radial and linear layers, and this model "
                f"has {layer['kind'].replace('_', ' ')}. Take python or c."
            )
        if "gelu" in (layer.get("base"), layer.get("activation")):
            raise UsageError(
                "JavaScript has no error function, which gelu needs. Take python or c."
            )
    # No text of the model may contain the end of the script element into which the file is pasted.
    data = json.dumps(pieces, allow_nan=False).replace("<", "\\u003c")
    source = resources.files(__package__).joinpath("runtime.js").read_text("utf-8")
    return source.replace("/* The model. */", f"const MODEL = {data};")
