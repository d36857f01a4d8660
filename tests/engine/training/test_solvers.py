"""Requirements on all solvers with all trainable networks, and tests of single solvers."""

import made_kan
import pytest
import torch
from cases import refuses
from made_kan import made_solver, mlp, normal, points
from scipy.optimize import least_squares
from scipy.stats import entropy

from kanrun.config import SOLVERS
from kanrun.engine.least_squares import LMPolicy
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


def kan(shape=(2, 3, 1), intervals=4, **spec):
    return made_kan.kan(shape, intervals, seed=1, **spec)


def samples(count=200, seed=2):
    x = points(count, 2, seed=seed)
    return Samples(x, torch.sin(2 * x[:, :1]) * x[:, 1:])


NETWORKS = {
    "kan": kan,
    "wide grid": lambda: kan(intervals=60),
    "mlp": lambda: mlp((2, 6, 1)),
}


def stepped(solver, steps):
    """Take steps until the solver has converged, and return it."""
    for _ in range(steps):
        loss = solver.step()
        if solver.converged:
            break
    assert loss == solver.loss
    return solver


def made(model, data, name, steps, *, weight=0.0, adam=None, **plan):
    """Return a solver; `adam` are the settings of Adam."""
    if name == "adam" and adam:
        plan["settings"] = AdamSolver(**adam)
    return made_solver(model, data, Plan(name, steps=steps, **plan), SmoothnessPenalty(weight))


def lm(model, data, *policy):
    return LevenbergMarquardt(DataFitting(model, Objective(data, 1.0)), *policy)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_solver_lowers_every_network(name, network):
    data = TrainingData(samples())
    model = NETWORKS[network]()
    first = measure(model, data).train
    steps = {"lm": 25, "lbfgs": 60, "adam": 150}[name]
    stepped(made(model, data, name, steps, adam={"learning_rate": 0.05}), steps)
    assert measure(model, data).train < 0.2 * first
    assert torch.isfinite(model.get_unknowns()).all()


def test_lm_reaches_the_minimum_that_scipy_finds():
    model = mlp((2, 2, 1), seed=1)
    clean = samples(60)
    data = Samples(clean.x, clean.y + 0.1 * normal(60, 1))
    start = model.get_unknowns()

    def residuals(unknowns):
        model.set_unknowns(torch.as_tensor(unknowns))
        return (model(data.x) - data.y).detach().flatten().numpy()

    reference = least_squares(residuals, start.numpy(), method="lm", xtol=1e-10, ftol=1e-10)
    model.set_unknowns(start)
    assert stepped(lm(model, data), 300).loss <= 2 * reference.cost / 60 * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_lm_goes_on_where_units_of_an_mlp_are_saturated(seed, activation):
    """A saturated unit has a tiny Jacobian column; scaled to one, it would dominate steps."""
    model = mlp((2, 10, 1), activation, seed=seed)
    policy = LMPolicy(damping=1e-2, damping_search=False, min_damping=1e-10)
    solver = lm(model, samples(300, 5), policy)
    for _ in range(60):
        solver.step()
    assert solver.loss < 1e-3
    assert float(model.get_unknowns().abs().max()) < 1e4


@pytest.mark.parametrize("name", NAMES)
def test_freeze_unseen_keeps_the_function_where_no_data_lie(name):
    """The data are on the left half; `degree` intervals beyond it, the function stays the same."""
    model = kan((1, 1), 20, base="zero", trained_scales="none")
    x = points(100, 1, high=0.0)
    data = TrainingData(Samples(x, torch.sin(5 * x)))
    right = points(50, 1, 0.3001)  # more than 3 intervals of 0.1 beyond the data
    before = model(right).detach()
    coefficients = model.edge_layers[0].coefficients
    unseen = ~model.determined(x)[coefficients][0]
    held = coefficients.detach().clone()
    adam = {"learning_rate": 0.05, "batch_size": 16, "weight_decay": 0.1}
    stepped(made(model, data, name, 20, weight=1e-8, adam=adam, freeze_unseen=True), 20)
    assert torch.equal(model(right), before)
    assert torch.equal(coefficients[:, unseen], held[:, unseen])
    assert not torch.equal(coefficients, held)


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
        lm(model, samples())


def test_adam_stops_at_a_loss_that_is_not_finite():
    adam = {"learning_rate": 1e300, "lr_schedule": "constant"}
    solver = made(kan(), TrainingData(samples()), "adam", 5, adam=adam)
    solver.step()
    cause = r"step 2 of Adam: \d+ of \d+ outputs of the network.*learning_rate"
    with pytest.raises(TrainingFailed, match=cause):
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
SIZES = {"rms": lambda t: t.square().mean(0).sqrt(), "mean_abs": lambda t: t.abs().mean(0)}


@pytest.mark.parametrize("kind", SIZES)
def test_regularisation_equals_its_definition(kind):
    network = kan((2, 4, 1), 5)
    network.edge_layers[0].mask[1, 0] = False
    expected = 0.0
    for layer, x in zip(network.edge_layers, network.activations(X), strict=False):
        sizes = SIZES[kind](layer.edge_values(x))[layer.mask].detach()
        expected += float(sizes.sum()) + entropy(sizes)
    found = network.regularisation(X, kind=kind).detach()
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(mlp((2, 3, 1)).regularisation(X)) == 0


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
