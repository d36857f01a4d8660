"""What a solution leaves behind: its table for figures, and its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from kanrun.experiments.solve.problem import SolveProblem
from numpy.typing import NDArray

from kanrun.engine.equations import Field, Monomials, Solution, Windows, edges_of, evaluate
from kanrun.runs.records import Checkpoint, Table
from kanrun.study.resources import generator
from kanrun.study.training_records import pack

Array = NDArray[np.float64]

#: Points of the table along each variable: of a curve, of a map, and of the map through the middle of a 3-D box.
RESOLUTION = {1: 401, 2: 81, 3: 61}


#: Points at which errors are measured.
MEASURED = 10_000


def random_points(problem: SolveProblem, seed: int) -> Array:
    """The points (points, variables) at which errors are measured."""
    box = problem.system.box.numpy()
    drawn = torch.rand(MEASURED, len(box), generator=generator(seed, "measuring"), dtype=torch.float64).numpy()
    return np.asarray(box[:, 0] + drawn * (box[:, 1] - box[:, 0]))


def grid_points(problem: SolveProblem) -> Array:
    """A regular grid of the box; in three variables the plane through the middle of the last one's range."""
    box = problem.system.box.numpy()
    each = RESOLUTION[len(box)]
    axes = [np.linspace(low, high, each) for low, high in box]
    if len(box) == 3:
        axes[2] = np.array([box[2].mean()])
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(box))


def solution_table(problem: SolveProblem, network: Field | Windows, constants: torch.Tensor, name: str) -> Table:
    """The solution, the truth where it is known, and the equations' residuals, on a regular grid of the box."""
    points = grid_points(problem)
    vocabulary = problem.system.vocabulary
    with torch.no_grad():
        values = network(torch.as_tensor(points)).numpy()
    truth = None if problem.comparison is None else problem.comparison.values(points)
    columns = {variable: points[:, i] for i, variable in enumerate(vocabulary.variables)}
    for i, unknown in enumerate(vocabulary.unknowns):
        columns[unknown] = values[:, i]
        if truth is not None:
            columns[f"{unknown} true"] = truth[:, i]
    for i, residual in enumerate(residuals(problem, network, constants, points)):
        columns[f"residual {i}"] = residual
    return Table(f"solution_{name}", columns)


def point_tables(problem: SolveProblem, solution: Solution, name: str) -> Iterator[Table]:
    """The collocation points and the breakpoints of every window."""
    variables = problem.system.vocabulary.variables
    points = np.concatenate([stage.points.numpy() for stage in solution.last])
    yield Table(f"points_{name}", {each: points[:, i] for i, each in enumerate(variables)})
    windows, names, places = list[int](), list[str](), list[float]()
    for number, stage in enumerate(solution.last):
        edges, box = edges_of(stage.solution), stage.solution.box
        for i, variable in enumerate(variables if edges is not None else ()):
            assert edges is not None  # an invariant: no variables are gone through without
            at = box[i].mean() + edges[i] * (box[i, 1] - box[i, 0]) / 2
            windows += [number] * len(at)
            names += [variable] * len(at)
            places += at.tolist()
    if places:
        yield Table(f"knots_{name}", {"window": np.array(windows), "variable": np.array(names), "at": np.array(places)})


def residuals(problem: SolveProblem, network: Field | Windows, constants: torch.Tensor, points: Array) -> list[Array]:
    """left - right of every equation at points."""
    at, found = torch.as_tensor(points), []
    for relation in problem.system.equations:
        monomials = Monomials.covering((each.index for each in relation.derivatives), points.shape[1])
        parts = network.split(at) if isinstance(network, Windows) else [(network, torch.arange(len(at)))]
        left = np.zeros(len(points))
        for part, where in parts:
            if len(where):
                held = evaluate(relation, part, at[where], constants, monomials, jacobian=False)
                left[where.numpy()] = held.residual.detach().numpy()
        found.append(left)
    return found


def checkpoint(problem: SolveProblem, network: Field | Windows, name: str, seed: int) -> Checkpoint:
    """The solution as `kanrun predict` and `load_run` read it, in the user's units."""
    vocabulary, box = problem.system.vocabulary, problem.system.box.numpy()
    variables, unknowns = len(box), len(vocabulary.unknowns)
    meta = {
        "network": network.describe(),
        "inputs": list(vocabulary.variables),
        "outputs": list(vocabulary.unknowns),
        "domain": box.tolist(),
        "classes": None,
        "input_scaling": {"shift": [0.0] * variables, "scale": [1.0] * variables},
        "output_scaling": {"shift": [0.0] * unknowns, "scale": [1.0] * unknowns},
        "seed": seed,
    }
    return Checkpoint(f"{problem.name}-{name}-seed{seed}", pack(network), meta)
