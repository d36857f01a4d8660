"""Trained models of every kind for the tests of exports."""

from functools import partial

import numpy as np
import torch

from kanrun.engine.equations import Field, OutputForm, Windows
from kanrun.engine.layers import BASES, EdgeSpec, RadialLayer
from kanrun.engine.networks import KAN, MLP, Bezier, BSpline, Polynomial
from kanrun.model.model import Model
from kanrun.points import PiecewiseScaling, Scaling
from kanrun.targets.encoding import ColumnCode, TableCode

HOSTILE = (
    '"); system("id"); //',
    "*/ int x; /*",
    "a\n#include <evil>",
    "'''\nimport os\n",
    "??/",
    "@NAME %s {x}",
    "ä\\",
)

#: Marks of missing values, as `target.read.na_values` converts them to text.
MISSING = ("-999", "-0.10000000000000001", "inf", "unknown")


def drawn(network):
    """Return the network after its parameters were replaced by random numbers."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(generator=generator)
    return network


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def kan(shape=(2, 3, 1), intervals=5, products=(), base="silu", **spec):
    domain = doubles([[-1.0, 2.0]] * shape[0])
    spec = EdgeSpec(base=base, **spec)
    options = {"domain": domain, "products": products, "generator": None}
    network = drawn(KAN.create(shape, intervals, spec, **options))
    network.edge_layers[0].mask[0, 0] = len(shape) < 3
    return network


def curve(kind, functions=9, **more):
    return drawn(kind(functions, 2, doubles([[-1.0, 2.0]]), **more))


def mlp(activation):
    return drawn(MLP((2, 5, 2), activation, dtype=torch.float64))


def model(network, **more):
    inputs = network.shape[0]
    outputs = network.shape[-1]
    given = {
        "inputs": tuple(f"x{i}" for i in range(inputs)),
        "outputs": tuple(f"y{o}" for o in range(outputs)),
        "domain": np.array([[8.0, 14.0]] * inputs),
        "input_scaling": Scaling(np.full(inputs, 10.0), np.full(inputs, 2.0)),
        "output_scaling": Scaling(np.full(outputs, -3.0), np.full(outputs, 7.0)),
        "classes": None,
    }
    return Model(network, **given | more)


def radial():
    """Return a network of splines plus radial functions about six centres.

    The ranks of one input have fewer points than those of the other.
    """
    rng = np.random.default_rng(0)
    sizes = {"level": 3, "heights": (2, 3, 6), "centres": (6, 2)}
    sizes |= {"smooth_rates": 2, "rough_rates": 2}
    numbers = {name: torch.tensor(rng.random(size)) for name, size in sizes.items()}
    numbers["points"] = doubles([[-1.0, 0.0, 0.5, 2.0], [-1.0, 1.0, 1.0, 1.0]])
    numbers["ranks"] = doubles([[-2.0, 0.5, 1.0, 2.0], [-1.0, 1.0, 1.0, 1.0]])
    return KAN.of_layers([RadialLayer.of(kan((2, 3), base="zero").edge_layers[0], numbers)])


def field(low=9.0):
    box = doubles([[8.0, 14.0], [low, low + 1.0]])
    return Field(kan((2, 3, 12)), OutputForm(2, 3, 2), box, doubles([2.0, -0.3]))


def solution(*fields):
    """Return a model of one field, or of windows of time."""
    for number, each in enumerate(fields):
        each.network.edge_layers[0].coefficients.data += number
    plain = Scaling.identity(2)
    network = Windows(fields) if fields else field()
    return model(network, input_scaling=plain, output_scaling=plain)


def table():
    """Return a model as made by `model=auto`: categories, missing values, linear pieces."""
    parts = ("day of year", "weekday", "hour")
    columns = (
        ColumnCode("size", None, 11.0, True, missing=MISSING),
        ColumnCode("colour", ("blue", "red \u00e4")),
        ColumnCode("age", None, 9.5),
        ColumnCode("day", None, 11000.5, True, parts, missing=MISSING),
    )
    code = TableCode(columns)
    points = tuple(np.sort(np.random.default_rng(i).uniform(8, 14, 3 + i)) for i in range(10))
    values = tuple(np.linspace(-1, 2, len(one)) for one in points)
    outputs = np.array([[-9.0, -4.0, 0.0, 9.0]]), np.array([[-2.0, -1.0, 0.5, 2.0]])
    return model(
        kan((10, 2, 1)),
        inputs=code.features,
        input_scaling=PiecewiseScaling(points, values),
        output_scaling=PiecewiseScaling(*outputs),
        code=code,
        errors=np.linspace(-1, 1, 199)[None],
    )


#: Functions that return a model or its network.
MODELS = {
    "mlp": partial(mlp, "silu"),
    "mlp gelu": partial(mlp, "gelu"),
    "polynomial": partial(curve, Polynomial),
    "constant": partial(curve, Polynomial, 1),
    "bezier": partial(curve, Bezier),
    "bspline": partial(curve, BSpline, degree=3),
    "products": partial(kan, (2, 4, 2), products=(2,)),
    "only products": partial(kan, (2, 1, 2), products=(1,)),
    "single layer, one interval": partial(kan, (3, 2), 1),
    "solution": solution,
    "windows": lambda: solution(*map(field, (9.0, 10.0, 11.0625))),
    "one window": lambda: solution(field(0.0)),
    "classes": lambda: model(kan((2, 4, 3)), outputs=("kind",), classes=("red", "green", "blue")),
    "radial": radial,
    "table": table,
}
MODELS |= {f"degree {k}": partial(kan, degree=k, base="zero") for k in (0, 1, 2, 5, 8)}
MODELS |= {f"base {name}": partial(kan, base=name) for name in BASES}
MODELS |= {f"beyond {e}": partial(kan, extrapolation=e) for e in ("constant", "zero", "base")}


def named(name):
    made = MODELS[name]()
    return made if isinstance(made, Model) else model(made)


def hostile():
    first = ColumnCode(HOSTILE[0], HOSTILE[1:4])
    code = TableCode((first, *map(ColumnCode, HOSTILE[4:])))
    return model(
        kan((6, 2, 2)), inputs=code.features, outputs=HOSTILE[:1], classes=HOSTILE[1:3], code=code
    )
