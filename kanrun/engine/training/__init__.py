"""Training: objective, solvers behind one interface, grids, the loop."""

from kanrun.engine.training.data import (
    Errors,
    Samples,
    Task,
    TrainingData,
    baseline_error,
    mean_loss,
    output_scale,
    predict,
)
from kanrun.engine.training.data_fitting import (
    DataFitting,
    SmoothnessLoss,
    SmoothnessPenalty,
    degrees_of_freedom,
)
from kanrun.engine.training.lbfgs import LBFGS
from kanrun.engine.training.loop import Event, Trained, fit, train
from kanrun.engine.training.plan import Plan, TrainingCost, choose_solver, second_order_work
from kanrun.engine.training.solver_run import GridTransfer, Snapshot, Stage, Step, TrainingState
from kanrun.engine.training.solvers import (
    Adam,
    LevenbergMarquardt,
    Objective,
    Solver,
    check_solver,
    make_solver,
)
