"""Training: objective, solvers behind one interface, grids, the loop."""

from kanrun.engine.training.data import (
    Errors,
    GrowthPolicy,
    Plan,
    Samples,
    Task,
    TrainingData,
    baseline_error,
    choose_solver,
    mean_loss,
    output_scale,
    predict,
    second_order_work,
)
from kanrun.engine.training.grid_training import Event
from kanrun.engine.training.lbfgs import LBFGS
from kanrun.engine.training.loop import Trained, fit, train
from kanrun.engine.training.memory import ANCHOR, INFORMATION, QuadraticMemory
from kanrun.engine.training.objective import (
    DataFitting,
    Objective,
    SmoothnessLoss,
    SmoothnessPenalty,
    degrees_of_freedom,
)
from kanrun.engine.training.solver_run import (
    Clock,
    GridTransfer,
    Grown,
    Setup,
    Snapshot,
    Stage,
    Step,
    TrainingState,
)
from kanrun.engine.training.solvers import Adam, LevenbergMarquardt, Solver, check_solver
