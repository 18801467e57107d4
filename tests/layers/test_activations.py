import numpy as np
import pytest
import tf_keras as keras

from deeplab2_lite.layers.activations import HardSigmoid, HardSwish, activate
from deeplab2_lite.layers.settings import LayerSettings

VALUES = np.array([-5, -3, -1.5, 0, 1, 3, 7], np.float32)


def test_hard_sigmoid_and_hard_swish():
    gate = np.clip((VALUES + 3) / 6, 0, 1)
    np.testing.assert_allclose(HardSigmoid()(VALUES), gate, rtol=1e-6)
    np.testing.assert_allclose(HardSwish()(VALUES), VALUES * gate, rtol=1e-6)


@pytest.mark.parametrize("name", ["relu", "hard_swish", "hard_sigmoid"])
def test_activations_are_named_layers(name):
    inputs = keras.Input((2,))
    assert keras.Model(inputs, activate(inputs, LayerSettings(), "x/y", name)).layers[-1].name == f"x/y/{name}"


def test_none_adds_no_layer():
    inputs = keras.Input((2,))
    assert activate(inputs, LayerSettings(), "x", "none") is inputs
