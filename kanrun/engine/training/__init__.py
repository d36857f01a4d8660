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
    LevenbergMarquardt,
    SmoothnessLoss,
    SmoothnessPenalty,
    degrees_of_freedom,
)
from kanrun.engine.training.first_order import Adam, Objective
from kanrun.engine.training.grid_stages import GridTransfer, Snapshot, Stage, TrainingState
from kanrun.engine.training.lbfgs import LBFGS
from kanrun.engine.training.loop import Event, Trained, fit, train
from kanrun.engine.training.plan import Plan, TrainingCost, choose_solver, second_order_work
from kanrun.engine.training.solver_run import Solver, Step, check_solver, make_solver
