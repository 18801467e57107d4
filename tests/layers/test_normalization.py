import numpy as np

from deeplab2_lite.layers.normalization import IMAGENET, SYMMETRIC, ImageNormalization


def test_symmetric_normalization_is_from_minus_one_to_one():
    images = np.array([0.0, 127.5, 255.0], np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(ImageNormalization(*SYMMETRIC)(images).numpy().ravel(), [-1, 0, 1])


def test_imagenet_normalization_is_torchvisions():
    images = np.array([[255.0, 0.0, 51.0]], np.float32).reshape(1, 1, 1, 3)
    expected = (np.array([1.0, 0.0, 0.2]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(ImageNormalization(*IMAGENET)(images).numpy().ravel(), expected, rtol=1e-5)


def test_config_round_trip():
    layer = ImageNormalization.from_config(ImageNormalization(*IMAGENET, name="n").get_config())
    assert (layer.mean, layer.deviation, layer.name) == (*IMAGENET, "n")
