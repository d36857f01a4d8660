"""What solvers remember across a refinement, and the steps that it leads to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from kanrun.config import AdamSolver
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.engine.splines import design_matrix
from kanrun.engine.training import Plan, Samples, Stage, TrainingData, TrainingState, make_solver, train
from kanrun.engine.training.first_order import carry, gradient_map

DOMAIN = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
NAME = "layers.0.coefficients"


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def kan(generator_: Generator | None = None, intervals: int = 4, degree: int = 3) -> KAN:
    spec = EdgeSpec(degree=degree)
    return KAN.create([2, 2, 1], intervals, spec, domain=DOMAIN, generator=generator_ or generator(1))


def samples(count: int = 300, seed: int = 2) -> Samples:
    x = torch.rand(count, 2, dtype=torch.float64, generator=generator(seed)) * 2 - 1
    return Samples(x, torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(7))


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize("factor", [2, 3])
def test_products_of_moves_and_gradients_are_kept(degree: int, factor: int) -> None:
    old = kan(degree=degree)
    new = old.refined(4 * factor, samples().x).network
    shape = (5, *old.layer(0).coefficients.shape)
    memory = {f"moves/{NAME}": random(*shape), f"changes/{NAME}": random(*shape).flip(0)}
    found = carry(memory, old, new)
    before, after = ((m[f"moves/{NAME}"] * m[f"changes/{NAME}"]).flatten(1).sum(1) for m in (memory, found))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)


def test_a_gradient_of_the_old_splines_is_the_gradient_on_the_finer_grid() -> None:
    """The gradient of an integral against an old spline has that spline as its representative: P gives it exactly."""
    old = kan()
    new = old.refined(8, samples().x).network
    coarse, fine = old.layer(0).grid, new.layer(0).grid
    x = torch.linspace(-1, 1, 40001, dtype=torch.float64)[:, None].expand(-1, 2)
    weights = torch.full((40001,), 2 / 40000, dtype=torch.float64)
    weights[[0, -1]] /= 2
    by_old, by_new = design_matrix(x, coarse)[0], design_matrix(x, fine)[0]
    spline = weights * (by_old @ random(coarse.functions))
    pulled = gradient_map(coarse, fine)[0] @ (by_old.T @ spline)
    torch.testing.assert_close(pulled, by_new.T @ spline, rtol=0, atol=1e-7)


def test_adam_takes_the_step_that_its_carried_moments_predict() -> None:
    data, options = TrainingData(samples()), AdamSolver(learning_rate=0.01, schedule="constant")
    plan, old = Plan("adam", adam=options), kan()
    solver = make_solver(old, data, plan, 0.0, generator())
    for _ in range(10):
        solver.step()
    new = old.refined(8, data.train.x).network
    memory = carry(solver.memory(), old, new)
    first, second = memory[f"first/{NAME}"].clone(), memory[f"second/{NAME}"].clone()
    by = gradient_map(old.layer(0).grid, new.layer(0).grid)
    expected = (by.square() @ solver.memory()[f"second/{NAME}"][..., None])[..., 0]
    torch.testing.assert_close(second, expected)
    assert (second >= 0).all()
    goes_on = make_solver(new, data, plan, 0.0, generator(), memory)
    start = new.layer(0).coefficients.detach().clone()
    goes_on.step()
    gradient = new.layer(0).coefficients.grad
    mean, square = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
    step = mean / (1 - 0.9**11) / ((square / (1 - 0.999**11)).sqrt() + 1e-8)
    torch.testing.assert_close(new.layer(0).coefficients.detach(), start - 0.01 * step, rtol=1e-10, atol=1e-12)


def courses(name: str, seed: int, before: int, after: int) -> tuple[list[float], list[float]]:
    """Losses of the steps after a refinement, with carried memory and afresh."""
    data, plan = TrainingData(samples()), Plan(name, adam=AdamSolver(learning_rate=0.03, schedule="constant"))
    old = kan(generator(seed))
    solver = make_solver(old, data, plan, 0.0, generator())
    for _ in range(before):
        solver.step()
    found = []
    for remembered in (True, False):
        new = old.refined(8, data.train.x).network
        memory = carry(solver.memory(), old, new) if remembered else {}
        goes_on = make_solver(new, data, plan, 0.0, generator(), memory)
        found.append([goes_on.step() for _ in range(after)])
    return found[0], found[1]


def test_carried_moments_spare_adam_the_jump_of_a_fresh_start() -> None:
    """Without second moments every coefficient's first step has the full length, whatever its gradient."""
    carried, fresh = courses("adam", 2, 300, 6)
    assert max(carried) <= 1.05 * carried[0]
    assert max(fresh) > 1.5 * fresh[0]


def test_a_carried_history_is_no_worse_than_a_fresh_one() -> None:
    ends = [tuple(course[-1] for course in courses("lbfgs", seed, 40, 50)) for seed in range(3)]
    assert sorted(carried / fresh for carried, fresh in ends)[1] <= 1.0


@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_a_training_goes_on_from_its_stages_to_the_same_numbers(name: str) -> None:
    data = TrainingData(samples(), samples(60, 3))
    plan = Plan(name, (4, 8, 16), steps=12, adam=AdamSolver(learning_rate=0.01, batch=64))
    ends = []
    for kept in (0, 2):
        stages: list[Stage] = []
        if kept:
            events = train(kan, data, plan, generator())
            while len(stages) < kept:
                stages += [event] if isinstance(event := next(events), Stage) else []
            stages = [*(replace(stage, memory={}) for stage in stages[:-1]), stages[-1]]  # as a checkpoint keeps them
        *_, last = (
            event for event in train(kan, data, plan, generator(), TrainingState(stages)) if isinstance(event, Stage)
        )
        ends.append(last)
    assert ends[0].errors == ends[1].errors
    for a, b in zip(ends[0].network.parameters(), ends[1].network.parameters(), strict=True):
        assert torch.equal(a, b)
