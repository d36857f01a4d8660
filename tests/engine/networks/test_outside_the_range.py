"""Warnings for inputs outside the range on which a stored network was trained."""

import warnings

import made_kan
import numpy as np
import pytest
import torch

from kanrun.engine.networks import BSpline, Polynomial
from kanrun.model.model import Model
from kanrun.model.trained import predicted_values
from kanrun.points import Scaling

DOMAIN = torch.tensor([[-1.0, 1.0]] * 2, dtype=torch.float64)


def model(network):
    inputs = network.shape[0]
    names = ("height", "width")[:inputs]
    scalings = map(Scaling.identity, (inputs, 1))
    return Model(network, names, ("y",), DOMAIN.numpy()[:inputs], *scalings, None)


def kan(**spec):
    return made_kan.kan((2, 2, 1), **spec)


@pytest.mark.filterwarnings("error")
def test_no_warning_for_inputs_inside_the_range():
    assert model(kan())([[0.25, 0.5], [-1.0, 1.0]]).shape == (2, 1)
    assert model(kan())(np.zeros((0, 2))).shape == (0, 1)


@pytest.mark.parametrize(
    "network, said",
    [
        (kan(), "the splines continue linearly"),
        (kan(extrapolation="constant", base="zero"), "splines keep their values at the ends"),
        (kan(extrapolation="zero"), "the splines are zero"),
        (kan(extrapolation="base"), "the base function continues"),
        (made_kan.mlp([2, 3, 1]), "continues by its formula"),
        (BSpline(6, 1, DOMAIN[:1], degree=3), "continues linearly"),
        (Polynomial(6, 1, DOMAIN[:1]), "polynomial continues"),
    ],
)
def test_one_warning_says_how_many_are_outside_and_what_the_model_does_there(network, said):
    x = np.array([[0.0, 1.0], [3.0, 1.0], [-2.0, 2.5], [0.0, 0.0]])[:, : network.shape[0]]
    with pytest.warns(UserWarning, match="outside") as caught:
        model(network)(x)
    (warning,) = caught
    text = str(warning.message)
    assert "50.0% of the samples have height outside the training range [-1, 1]" in text
    assert ("25.0% of the samples have width outside" in text) == (x.shape[1] == 2)
    assert said in text
    assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted_values(model(network), x)
