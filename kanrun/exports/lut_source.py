"""Integer tables as a C99 file and its reference in Python, which is the test bench too.

All that comes from the model stands in them as numbers and as string literals.
"""

from __future__ import annotations

import inspect
import textwrap
from importlib import resources
from pathlib import Path

import numpy as np

from kanrun.errors import UsageError
from kanrun.exports import lut_reference, runtime
from kanrun.exports.c_source import LINE, numbers, texts
from kanrun.exports.document import Document, python_literal
from kanrun.exports.lut import LutSettings, Tables, tables_of

_MAIN = """

def predict(x: Any) -> Array:
    \"\"\"Outputs (rows, outputs) for inputs (rows, inputs), both in the units of the data.\"\"\"
    return values(MODEL, evaluate(MODEL, codes(MODEL, x)))


if __name__ == "__main__":
    sys.exit(main(MODEL, Path(__file__).with_suffix(".c")))
"""


def lut_files(
    pieces: Document, settings: LutSettings, file: Path, name: str
) -> tuple[dict[Path, str], list[str]]:
    """Return the texts of `file` and of its reference in Python, and what was proven and measured.

    Raises UsageError if the network has no such tables, and for a file that does not end in .c.
    """
    if file.suffix != ".c":
        raise UsageError(f"--format lut writes C and, next to it, Python. Name {file} as FILE.c.")
    found = tables_of(pieces, settings)
    names = {key: pieces[key] for key in ("inputs", "outputs", "classes", "domain")}
    model = {"name": name, **names, **found.model}
    notes = _report(pieces, model, found)
    reference = inspect.getsource(lut_reference)
    return {
        file: _c_text(model, found, notes),
        file.with_suffix(".py"): f"{reference}\n\nMODEL = {python_literal(model)}\n{_MAIN}",
    }, notes


def _report(pieces: Document, model: Document, found: Tables) -> list[str]:
    """Return sentences on bits, errors, memory and operations."""
    low, high = np.transpose(pieces["domain"])
    x = np.random.default_rng(0).uniform(low, high, (lut_reference.POINTS, len(low)))
    y = lut_reference.evaluate(model, lut_reference.codes(model, x))
    scores = {"classes": None, "output_map": [{"shift": 0.0, "scale": 1.0}] * y.shape[1]}
    truth = runtime.evaluate(pieces | scores if pieces["classes"] else pieces, x)
    difference = np.abs(lut_reference.values(model, y) - truth)
    edges = sum(len(layer["edges"]) for layer in model["layers"])
    between = sum(len(layer["edges"]) for layer in model["layers"] if layer["fraction_bits"])
    products = sum(len(layer["zeros"]) // 2 for layer in model["layers"])
    inputs = model["input_bits"]
    index = inputs - max(layer["fraction_bits"] for layer in model["layers"])
    return [
        f"{inputs} bits of inputs, of which {index} address a table, {model['entry_bits']} "
        f"bits of entries, {found.accumulator_bits} bits of sums and products",
        f"proven in the whole domain: outputs differ from the float network by at most "
        f"{_listed(found.bounds)}",
        f"measured on {len(x)} points: at most {_listed(difference.max(0))}, root mean square "
        f"{_listed(np.sqrt((difference**2).mean(0)))}",
        f"{found.memory} bytes of tables; per inference "
        f"{edges + between} entries read, {edges + 2 * between} additions, "
        f"{between + products} multiplications",
    ]


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _c_text(model: Document, found: Tables, notes: list[str]) -> str:
    """Return the text of the C file."""
    names = {"inputs": model["inputs"], "outputs": model["classes"] or model["outputs"]}
    lines = [
        f"enum {{ @_INPUTS = {len(model['inputs'])}, @_OUTPUTS = {len(model['places'])}, "
        f"@_INPUT_BITS = {model['input_bits']} }};",
        f"typedef int{model['result_bits']}_t @_output;",
        f"typedef uint{8 * found.entry_bytes}_t entry;",
        f"typedef uint{32 if found.accumulator_bits <= 32 else 64}_t sum;",
        *(f"const char *const @_{key}[] = {texts(each)};" for key, each in names.items()),
        f"const int @_places[] = {numbers(model['places'])};",
        *(
            f"static const entry t{i}[] = {numbers(each)};"
            for i, each in enumerate(model["tables"])
        ),
    ]
    if any(layer["fraction_bits"] for layer in model["layers"]):
        lines += [
            "\nstatic sum at(const entry *t, uint32_t x, int bits)\n{",
            "    const sum first = t[x >> bits], next = t[(x >> bits) + 1];",
            "    return (first << bits) + (next - first) * (x & ((1u << bits) - 1));\n}",
        ]
    report = [f"input {i}: {low!r} to {high!r}" for i, (low, high) in enumerate(model["domain"])]
    report += ["", *textwrap.wrap("; ".join(notes) + ".", LINE - 3)]
    source = resources.files(__package__).joinpath("lut.c").read_text("utf-8")
    source = source.replace("REPORT", "\n   ".join(report))
    return source.replace("/* The model. */", "\n".join(lines + _function(model))).replace(
        "@", model["name"]
    )


def _function(model: Document) -> list[str]:
    """Return the lines of the function; nodes that no edge leaves are left out."""
    head = "void @_evaluate(const uint32_t x[@_INPUTS], @_output y[@_OUTPUTS])"
    most, layers = 2 ** model["input_bits"] - 1, model["layers"]
    used = [sorted({edge["from"] for edge in layer["edges"]}) for layer in layers]
    lines = [f"const uint32_t n0_{i} = x[{i}] < {most} ? x[{i}] : {most};" for i in used[0]]
    for number, layer in enumerate(layers):
        bits = layer["fraction_bits"]
        call = f"at(t{{}}, n{{}}_{{}}, {bits})" if bits else "t{}[n{}_{}]"
        sums = [
            " + ".join(
                call.format(edge["table"], number, edge["from"])
                for edge in layer["edges"]
                if edge["to"] == o
            )
            or "0"
            for o in range(layer["sums"])
        ]
        if layer is layers[-1]:
            pairs = enumerate(zip(sums, layer["starts"], strict=True))
            lines += [f"y[{o}] = (@_output)({each}) + ({start});" for o, (each, start) in pairs]
        else:
            nodes = _nodes(layer, sums)
            lines += [f"const uint32_t n{number + 1}_{i} = {nodes[i]};" for i in used[number + 1]]
    body = [
        textwrap.fill(line, LINE, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for line in lines
    ]
    return [f"\n{head};\n\n{head}\n{{", "    (void)x;", *body, "}"]


def _nodes(layer: Document, sums: list[str]) -> list[str]:
    """Return the codes of the nodes of a hidden layer in C."""
    plain = len(sums) - len(layer["zeros"])
    factors = [
        f"((int64_t)({each}) + ({zero}))"
        for each, zero in zip(sums[plain:], layer["zeros"], strict=True)
    ]
    pairs = zip(factors[::2], factors[1::2], strict=True)
    values = [*sums[:plain], *(f"{a} * {b}" for a, b in pairs)]
    each = zip(values, layer["starts"], layer["shifts"], strict=True)
    return [f"(uint32_t)(({value} + ({start})) >> {shift})" for value, start, shift in each]
