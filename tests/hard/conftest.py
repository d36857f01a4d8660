import pytest
from run_files import finished


def pytest_addoption(parser):
    parser.addoption("--seconds", type=float, help="CPU seconds of each fuzzer")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Return the folder of a small run with two networks of two inputs."""
    network = "model.hidden=[2] model.intervals=[3] solver.steps=3 solver.n_starts=1"
    line = f"fit target=product n_seeds=2 sampling.n_train=60 figures=none {network}"
    return finished(line, tmp_path_factory.mktemp("trained"))
