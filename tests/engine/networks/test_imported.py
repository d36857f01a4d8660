"""Imported networks of pykan and efficient-kan have the outputs that their libraries gave."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import cases, refuses
from processes import python
from safetensors.torch import save_file

from kanrun import KAN
from kanrun.engine.networks import from_description

STATES = Path(__file__).with_name("states")


def state_of(name):
    return torch.load(STATES / f"{name}_state", weights_only=True)


def difference(network, name, folder=STATES):
    """Return the largest difference from the recorded outputs, relative to the largest output."""
    points = torch.load(folder / f"{name}_points", weights_only=True)
    apart = network(points["x"]).detach() - points["y"]
    return float(apart.abs().max() / points["y"].abs().max())


@pytest.mark.parametrize(
    "name, shape",
    cases("""
        trained | (2, 3, 1)
        pruned | (2, 3, 2, 1)
        affine | (2, 3, 1)
        products | (2, 4, 1)
        arities | (2, 4, 3, 3, 1, 1)
    """),
)
def test_a_checkpoint_of_pykan_gives_its_outputs_inside_and_outside_its_grids(name, shape):
    network = KAN.from_pykan(STATES / name)
    assert network.shape == shape
    assert difference(network, name) < 1e-12
    again = from_description(network.describe())
    again.load_state_dict(network.state_dict())
    assert difference(again, name) < 1e-12


@pytest.mark.slow
@pytest.mark.skipif(find_spec("kan") is None, reason="pykan is not installed (extra peers)")
def test_networks_that_pykan_trains_now_give_its_outputs(tmp_path):
    python(STATES / "make_pykan_states.py", cwd=tmp_path)
    for name in ("trained", "pruned", "affine", "products", "arities"):
        assert difference(KAN.from_pykan(tmp_path / name), name, tmp_path) < 1e-12


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_state_of_efficient_kan_gives_its_outputs(name):
    network = KAN.from_efficient_kan(STATES / f"efficient_kan_{name}.pt")
    stored = np.load(STATES / f"efficient_kan_{name}.npz")
    y = network(torch.as_tensor(stored["inputs"]).double()).detach().numpy()
    assert np.abs(y - stored["outputs"]).max() < 2e-6 * np.abs(stored["outputs"]).max()


def test_bare_states_wrapped_states_and_safetensors_are_the_same_network(tmp_path):
    state = state_of("products")
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "a.safetensors")
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
    for source in (state, wrapped, tmp_path / "a.safetensors", STATES / "products_config.yml"):
        assert difference(KAN.from_pykan(source), "products") < 1e-12
    assert all(torch.equal(value, state_of("products")[key]) for key, value in state.items())


def test_a_base_function_without_a_name_is_asked_for(tmp_path):
    torch.save(state_of("trained"), tmp_path / "m_state")
    text = "base_fun_name: !!python/object:torch.nn.modules.activation.GELU {inplace: false}\n"
    (tmp_path / "m_config.yml").write_text(text)
    with refuses("is stored without a name"):
        KAN.from_pykan(tmp_path / "m")
    gelu = KAN.from_pykan(tmp_path / "m", base="gelu")
    assert [layer.spec.base for layer in gelu.edge_layers] == ["gelu", "gelu"]
    x = torch.zeros(1, 2, dtype=torch.float64)
    assert float((gelu(x) - KAN.from_pykan(STATES / "trained")(x)).detach()) != 0.0


def changed(*changes):
    """Return the state `trained` with other values: (key, index, value) each."""
    state = state_of("trained")
    for key, index, value in changes:
        state[key][index] = value
    return state


CONSTANT = [
    ("symbolic_fun.1.mask", (0, 2), 1.0),
    ("symbolic_fun.1.affine", (0, 2), torch.tensor([1.0, 0.0, 3.0, 0.25])),
]


def test_constant_edges_are_carried_over(tmp_path):
    torch.save(changed(*CONSTANT), tmp_path / "m_state")
    (tmp_path / "m_config.yml").write_text("symbolic.funs_name.1: [['0', '0', '0']]\n")
    x = torch.linspace(-4, 4, 20, dtype=torch.float64).reshape(10, 2)
    plain = KAN.from_pykan(STATES / "trained")(x)
    shifted = KAN.from_pykan(tmp_path / "m")(x)
    torch.testing.assert_close(shifted, plain + 0.25, rtol=0, atol=1e-13)


def test_a_constant_input_has_no_spline():
    layer = KAN.from_pykan(changed(("act_fun.1.grid", 1, 0.5))).edge_layers[1]
    assert not layer.coefficients[:, 1].any()


@pytest.mark.parametrize(
    "source, message",
    [
        (STATES / "symbolic", "0 to 0 of layer 0 (sin), 1 to 0 of layer 0 (x^2)"),
        (changed(*CONSTANT), "2 to 0 of layer 1"),
        (
            changed(("act_fun.0.grid", (1, 4), state_of("trained")["act_fun.0.grid"][1, 5])),
            "input 1 of a layer with 2 inputs has equal knots",
        ),
        (changed(("act_fun.0.coef", 0, torch.inf)), "not finite"),
        ({"act_fun.0.grid": torch.zeros(2, 11)}, "not a complete state of pykan"),
        ({}, "has no key act_fun.0.grid or layers.0.grid"),
        (STATES / "make_pykan_states.py", "not a file of tensors"),
        (STATES / "missing.pt", "there is no file"),
        (STATES / "efficient_kan_a.pt", "a network of efficient-kan, not of pykan"),
    ],
)
def test_sources_that_hold_no_network_of_splines_are_refused(source, message):
    with refuses(message):
        KAN.from_pykan(source)


class Touch:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save(Touch(tmp_path / "ran"), tmp_path / "evil.pt")
    with refuses("contains Python objects"):
        KAN.from_pykan(tmp_path / "evil.pt")
    torch.save(state_of("trained"), tmp_path / "m_state")
    code = f"k: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n"
    (tmp_path / "m_config.yml").write_text(code)
    assert difference(KAN.from_pykan(tmp_path / "m"), "trained") < 1e-12
    assert not (tmp_path / "ran").exists()
