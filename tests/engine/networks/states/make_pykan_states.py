"""Train the pykan networks of this folder (pykan 0.2.8, float64) and record their outputs.

Run it in an empty folder, in an environment with the extra `benchmarks`. Half of the recorded
points lie outside the grids.
"""

import torch
from kan import KAN

torch.set_default_dtype(torch.float64)
SHAPES = {
    "trained": {"width": [2, 3, 1], "grid": 4},
    "pruned": {"width": [2, 4, 2, 1], "k": 2, "base_fun": "identity", "grid_eps": 0.5},
    "affine": {"width": [2, 3, 1], "base_fun": "zero", "affine_trainable": True, "grid_eps": 1.0},
    "products": {"width": [2, [2, 2], 1]},
    "arities": {
        "width": [2, [1, 2], [0, 1]],
        "mult_arity": [[], [3, 2], [2]],
        "affine_trainable": True,
    },
    "symbolic": {"width": [2, 1, 1]},
}


def target(x):
    return torch.exp(torch.sin(torch.pi * x[:, [0]]) + x[:, [1]] ** 2)


def main():
    x = 2 * torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) - 1
    data = {
        "train_input": x,
        "train_label": target(x),
        "test_input": x[:50],
        "test_label": target(x[:50]),
    }
    points = 2 * torch.rand(300, 2, generator=torch.Generator().manual_seed(9)) - 1
    points = points * torch.linspace(0.5, 6, 300)[:, None]
    for seed, (name, settings) in enumerate(SHAPES.items()):
        model = KAN(seed=seed, auto_save=False, **{"grid": 3, "k": 3, **settings})
        steps = 12 if name == "trained" else 10
        model.fit(data, steps=steps, lamb=0.02 if name == "pruned" else 0.0)
        if name == "pruned":
            model.attribute()
            model.prune_edge(0.15)
            model = model.prune_node(0.01)
        if name == "symbolic":
            for place, function in (((0, 0, 0), "sin"), ((0, 1, 0), "x^2"), ((1, 0, 0), "exp")):
                model.fix_symbolic(*place, function)
            model.fit(data, steps=10)
        model.saveckpt(name)
        with torch.no_grad():
            torch.save({"x": points, "y": model(points)}, f"{name}_points")


if __name__ == "__main__":
    main()
