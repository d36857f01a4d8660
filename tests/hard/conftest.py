import pytest

from kanrun.cli.app import main


def pytest_addoption(parser):
    parser.addoption("--seconds", type=float, help="CPU seconds of each fuzzer")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Return the folder of a small run with two networks of two inputs."""
    outputs = tmp_path_factory.mktemp("trained")
    network = ["model.hidden=[2]", "model.intervals=[3]", "solver.steps=3", "solver.n_starts=1"]
    words = ["target=product", "n_seeds=2", "sampling.n_train=60", "figures=none", *network]
    assert main(["fit", *words, "-q", "--outputs", str(outputs)]) == 0
    return outputs / "fit" / "v0001"
