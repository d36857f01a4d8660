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
from kanrun.engine.training.grid_training import Event
from kanrun.engine.training.lbfgs import LBFGS
from kanrun.engine.training.loop import Trained, fit, train
from kanrun.engine.training.memory import ANCHOR, INFORMATION, QuadraticMemory
from kanrun.engine.training.plan import (
    GrowthPolicy,
    Plan,
    TrainingCost,
    choose_solver,
    second_order_work,
)
from kanrun.engine.training.solver_run import (
    GridTransfer,
    Grown,
    Snapshot,
    Stage,
    Step,
    TrainingState,
)
from kanrun.engine.training.solvers import (
    Adam,
    LevenbergMarquardt,
    Objective,
    Solver,
    check_solver,
    make_solver,
)
