"""Requirements on all solvers with all trainable networks, and tests of single solvers."""

import made_kan
import pytest
import torch
from cases import refuses
from scipy.optimize import least_squares
from scipy.stats import entropy
from torch import Generator

from kanrun.config import SOLVERS
from kanrun.engine.least_squares import LMPolicy
from kanrun.engine.networks import MLP
from kanrun.engine.training import (
    DataFitting,
    LevenbergMarquardt,
    Objective,
    Plan,
    Samples,
    SmoothnessPenalty,
    TrainingData,
    check_solver,
)
from kanrun.engine.training.data import measure
from kanrun.errors import TrainingFailed
from kanrun.model.settings import AdamSolver, LBFGSSolver

NAMES = [name for name in SOLVERS if name != "auto"]  # auto chooses one of the others


def generator(seed=0):
    return Generator().manual_seed(seed)


def kan(shape=(2, 3, 1), intervals=4, **spec):
    return made_kan.kan(shape, intervals, seed=1, **spec)


def mlp(shape=(2, 6, 1)):
    return MLP(shape, "tanh", dtype=torch.float64, generator=generator(1))


def samples(count=200, seed=2):
    x = made_kan.points(count, 2, seed=seed)
    return Samples(x, torch.sin(2 * x[:, :1]) * x[:, 1:])


NETWORKS = {
    "kan": kan,
    "wide grid": lambda: kan(intervals=60),
    "kan, single scale": lambda: kan(edge_scaling="single"),
    "mlp": mlp,
}


def stepped(solver, steps):
    """Take steps until the solver has converged, and return it."""
    for _ in range(steps):
        loss = solver.step()
        if solver.converged:
            break
    assert loss == solver.loss
    return solver


def made(model, data, name, steps, *, weight=None, adam=None, **plan):
    """Return a solver; `adam` are the settings of Adam, `weight` that of the penalty."""
    if name == "adam" and adam:
        plan["settings"] = AdamSolver(**adam)
    penalty = SmoothnessPenalty(weight) if weight else SmoothnessPenalty()
    return made_kan.made_solver(model, data, Plan(name, steps=steps, **plan), penalty)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_solver_lowers_every_network(name, network):
    data = TrainingData(samples(), samples(50, 3))
    model = NETWORKS[network]()
    first = measure(model, data).train
    steps = {"lm": 25, "lbfgs": 60, "adam": 150}[name]
    stepped(made(model, data, name, steps, adam={"learning_rate": 0.05}), steps)
    assert measure(model, data).train < 0.2 * first
    assert torch.isfinite(model.get_unknowns()).all()


def test_lm_reaches_the_minimum_that_scipy_finds():
    model = mlp((2, 2, 1))
    clean = samples(60)
    data = Samples(clean.x, clean.y + 0.1 * made_kan.normal(60, 1))
    start = model.get_unknowns()

    def residuals(u):
        model.set_unknowns(torch.as_tensor(u))
        return (model(data.x) - data.y).detach().flatten().numpy()

    def jacobian(u):
        model.set_unknowns(torch.as_tensor(u))
        rows = model.linearise(data.x)[1]
        return rows.times(torch.eye(rows.unknowns, dtype=data.x.dtype)).numpy()

    reference = least_squares(
        residuals, start.numpy(), jac=jacobian, method="lm", xtol=1e-14, ftol=1e-14
    )
    model.set_unknowns(start)
    solver = stepped(LevenbergMarquardt(DataFitting(model, Objective(data, 1.0))), 300)
    assert solver.loss <= 2 * reference.cost / 60 * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_lm_goes_on_where_units_of_an_mlp_are_saturated(seed, activation):
    """A saturated unit has a tiny Jacobian column; scaled to one, it would dominate steps."""
    data = samples(300, 5)
    model = MLP([2, 10, 1], activation, dtype=torch.float64, generator=generator(seed))
    solver = LevenbergMarquardt(
        DataFitting(model, Objective(data, 1.0)),
        LMPolicy(damping=1e-2, damping_search=False, min_damping=1e-10),
    )
    for _ in range(60):
        solver.step()
    assert solver.loss < 1e-3
    assert float(model.get_unknowns().abs().max()) < 1e4


@pytest.mark.parametrize("name", NAMES)
def test_freeze_unseen_keeps_the_function_where_no_data_lie(name):
    """The data are on the left half; `degree` intervals beyond it, the function stays the same."""
    model = kan((1, 1), 20, base="zero", trained_scales="none")
    x = made_kan.points(100, 1, high=0.0)
    data = TrainingData(Samples(x, torch.sin(5 * x)))
    right = made_kan.points(50, 1, 0.3001)  # more than 3 intervals of 0.1 beyond the data
    before = model(right).detach()
    unseen = ~model.determined(x)[model.edge_layers[0].coefficients][0]
    held = model.edge_layers[0].coefficients.detach().clone()
    adam = {"learning_rate": 0.05, "batch_size": 16, "weight_decay": 0.1}
    stepped(made(model, data, name, 20, weight=1e-8, adam=adam, freeze_unseen=True), 20)
    assert torch.equal(model(right).detach(), before)
    assert torch.equal(model.edge_layers[0].coefficients.detach()[:, unseen], held[:, unseen])
    assert not torch.equal(model.edge_layers[0].coefficients.detach(), held)


def test_lm_refuses_float32_and_classification():
    with refuses("float64"):
        check_solver("lm", "regression", torch.float32)
    with refuses("lbfgs or adam"):
        check_solver("lm", "classification", torch.float64)
    check_solver("lbfgs", "classification", torch.float32)


def test_a_network_that_is_not_finite_is_refused():
    model = kan()
    with torch.no_grad():
        model.edge_layers[0].coefficients[0, 0, 0] = float("nan")
    cause = r"before the first step: 1 of \d+ parameters of the network are not finite; look for"
    with pytest.raises(TrainingFailed, match=cause):
        LevenbergMarquardt(DataFitting(model, Objective(samples(), 1.0)))


def test_adam_stops_at_a_loss_that_is_not_finite():
    adam = {"learning_rate": 1e300, "lr_schedule": "constant"}
    solver = made(kan(), TrainingData(samples()), "adam", 5, adam=adam)
    solver.step()
    with pytest.raises(
        TrainingFailed, match=r"step 2 of Adam: \d+ of \d+ outputs of the network.*learning_rate"
    ):
        solver.step()


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_every_solver_learns_to_classify(name):
    x = samples().x
    data = TrainingData(Samples(x, (x[:, :1] * x[:, 1:] > 0).double()), task="classification")
    model = kan((2, 4, 2))
    stepped(made(model, data, name, 60, adam={"learning_rate": 0.03}), 60)
    accuracy = (model(x).argmax(1, keepdim=True) == data.train.y).double().mean()
    assert accuracy > 0.95


X = samples(seed=1).x


def by_loops(network, kind):
    total = 0.0
    x = X
    for layer in network.edge_layers:
        values = layer.edge_values(x).detach()
        sizes = values.abs().mean(0) if kind == "mean_abs" else values.square().mean(0).sqrt()
        sizes = sizes[layer.mask].numpy()
        total += sizes.sum() + entropy(sizes)
        x = layer(x).detach()
    return total


@pytest.mark.parametrize("kind", ["rms", "mean_abs"])
def test_regularisation_equals_its_definition_in_loops(kind):
    network = kan((2, 4, 1), 5)
    with torch.no_grad():
        network.edge_layers[0].mask[1, 0] = False
    assert float(network.regularisation(X, kind=kind).detach()) == pytest.approx(
        by_loops(network, kind), rel=1e-5
    )
    assert (
        float(MLP((2, 3, 1), "tanh", dtype=torch.float64, generator=Generator()).regularisation(X))
        == 0
    )


@pytest.mark.parametrize(
    "name, steps, kind, more",
    [("adam", 100, AdamSolver, {"learning_rate": 0.05}), ("lbfgs", 30, LBFGSSolver, {})],
)
def test_training_with_regularisation_leaves_fewer_edges(name, steps, kind, more):
    """One edge of the first layer is enough for x0; the norms of the others decrease."""
    data = TrainingData(Samples(X, X[:, :1]))
    shares = []
    for weight in (0.0, 1e-2):
        network = kan((2, 4, 1), 5)
        stepped(made(network, data, name, steps, settings=kind(sparsity=weight, **more)), steps)
        sizes = network.edge_layers[0].edge_values(X).detach().square().mean(0).sqrt()
        shares.append(float(sizes.max() / sizes.sum()))
    assert shares[1] > 1.3 * shares[0]
