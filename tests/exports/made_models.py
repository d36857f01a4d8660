"""Trained models of every kind for the tests of exports."""

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

#: Marks of missing values, as `target.missing_values` converts them to text.
MISSING = ("-999", "-0.10000000000000001", "inf", "unknown")


def generator():
    return torch.Generator().manual_seed(0)


def kan(shape=(2, 3, 1), intervals=5, products=(), **spec):
    domain = torch.tensor([[-1.0, 2.0]] * shape[0], dtype=torch.float64)
    network = KAN.create(
        shape,
        intervals,
        EdgeSpec(**{"base": "silu", **spec}),
        domain=domain,
        initialisation="paper",
        generator=generator(),
        products=products,
    )
    for layer in network.edge_layers:
        layer.coefficients.data.normal_(generator=generator())
        if layer.spec.base != "zero" and layer.spec.edge_scaling == "separate":
            layer.base_weight.data.normal_(generator=generator())
    network.edge_layers[0].mask[0, 0] = len(shape) < 3
    return network


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


def curve(kind, functions, **more):
    made = kind(functions, 2, torch.tensor([[-1.0, 2.0]], dtype=torch.float64), **more)
    made.coefficients.data.normal_(generator=generator())
    return made


def field(low=0.0):
    box = torch.tensor([[8.0, 14.0], [low, low + 1.0]], dtype=torch.float64)
    sizes = torch.tensor([2.0, -0.3], dtype=torch.float64)
    return Field(kan((2, 3, 12)), OutputForm(2, 3, 2), box, sizes)


def radial():
    """Return a model of splines plus radial functions about six centres.

    The ranks of one input have fewer points than those of the other.
    """
    sizes = {"level": (3,), "heights": (2, 3, 6), "centres": (6, 2)}
    sizes |= {"smooth_rates": (2,), "rough_rates": (2,)}
    numbers = {
        name: torch.rand(size, generator=generator(), dtype=torch.float64)
        for name, size in sizes.items()
    }
    numbers["points"] = torch.tensor([[-1.0, 0.0, 0.5, 2.0], [-1.0, 1.0, 1.0, 1.0]]).double()
    numbers["ranks"] = torch.tensor([[-2.0, 0.5, 1.0, 2.0], [-1.0, 1.0, 1.0, 1.0]]).double()
    splines = kan((2, 3), base="zero").edge_layers[0]
    return model(KAN.of_layers([RadialLayer.of(splines, numbers)]))


def solution(network=None):
    plain = Scaling.identity(2)
    return model(network or field(9.0), input_scaling=plain, output_scaling=plain)


def windows():
    fields = [field(low) for low in (9.0, 10.0, 11.0625)]
    for number, each in enumerate(fields):
        each.network.edge_layers[0].coefficients.data += number
    return solution(Windows(fields))


def table():
    """Return a model as made by `model=auto`: categories, missing values, linear pieces."""
    code = TableCode(
        (
            ColumnCode("size", None, 11.0, True, missing=MISSING),
            ColumnCode("colour", ("blue", "red \u00e4")),
            ColumnCode("age", None, 9.5),
            ColumnCode(
                "day", None, 11000.5, True, ("day of year", "weekday", "hour"), missing=MISSING
            ),
        )
    )
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


MODELS = {
    "mlp": lambda: model(MLP((2, 5, 2), "silu", dtype=torch.float64, generator=generator())),
    "mlp gelu": lambda: model(MLP((2, 5, 2), "gelu", dtype=torch.float64, generator=generator())),
    "polynomial": lambda: model(curve(Polynomial, 9)),
    "constant": lambda: model(curve(Polynomial, 1)),
    "bezier": lambda: model(curve(Bezier, 9)),
    "bspline": lambda: model(curve(BSpline, 9, degree=3)),
    "products": lambda: model(kan((2, 4, 2), products=(2,))),
    "only products": lambda: model(kan((2, 1, 2), products=(1,))),
    "single layer, one interval": lambda: model(kan((3, 2), 1)),
    "single scale": lambda: model(kan(edge_scaling="single", base="silu")),
    "solution": solution,
    "windows": windows,
    "one window": lambda: solution(Windows([field()])),
    "classes": lambda: model(kan((2, 4, 3)), outputs=("kind",), classes=("red", "green", "blue")),
    "radial": radial,
    "table": table,
}
MODELS |= {f"degree {k}": lambda k=k: model(kan(degree=k, base="zero")) for k in (0, 1, 2, 5, 8)}
MODELS |= {f"base {name}": lambda name=name: model(kan(base=name)) for name in BASES}
MODELS |= {
    f"beyond {policy}": lambda policy=policy: model(kan(extrapolation=policy, base="silu"))
    for policy in ("constant", "zero", "base")
}


def hostile():
    code = TableCode(
        (ColumnCode(HOSTILE[0], HOSTILE[1:4]), *(ColumnCode(name) for name in HOSTILE[4:]))
    )
    return model(
        kan((6, 2, 2)), inputs=code.features, outputs=HOSTILE[:1], classes=HOSTILE[1:3], code=code
    )
