"""keras.applications: ResNet-50 and -101 and MobileNetV3, from their HDF5 files or as built by Keras."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from deeplab2_lite.errors import UserError
from deeplab2_lite.pretrained.translation import Dialect, SourceLayer, Translation

KERAS = Dialect(
    {name: name for name in ("kernel", "depthwise_kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")}
)
# The word that stands for a file: the published ImageNet weights, downloaded and kept by Keras.
IMAGENET = "imagenet"

_MODELS = {
    "mobilenet_v3_large": "MobileNetV3Large",
    "mobilenet_v3_small": "MobileNetV3Small",
    "resnet50_caffe": "ResNet50",
    "resnet101_caffe": "ResNet101",
}
_RESNET_UNIT = re.compile(r"backbone/block(\d)/unit(\d+)/(shortcut|conv(\d))")


def mobilenet_v3_layer(prefix: str = "", last: int = 17) -> Callable[[str], SourceLayer | None]:
    """Returns how MobileNetV3's layers are called in keras.applications, and likewise in TF-slim.

    Args:
        prefix: Put before all names.
        last: Number of the last layer, the 1x1 convolution: 17 of Large, 13 of Small.

    Returns:
        From a layer of ours to the source's names.
    """
    pattern = re.compile(r"backbone/layer(\d+)(?:/(expand|depthwise|project|squeeze_excite/(reduce|expand)))?")

    def layer(path: str) -> SourceLayer | None:
        match = pattern.fullmatch(path)
        if match is None:
            return None
        number = int(match[1])
        if match[2] is None:
            name = prefix + ("Conv" if number == 1 else "Conv_1")
            return SourceLayer(name, f"{name}/BatchNorm") if number in (1, last) else None
        block = f"{prefix}expanded_conv" + (f"_{number - 2}" if number > 2 else "")
        if match[3] is not None:
            return SourceLayer(f"{block}/squeeze_excite/" + ("Conv" if match[3] == "reduce" else "Conv_1"))
        return SourceLayer(f"{block}/{match[2]}", f"{block}/{match[2]}/BatchNorm")

    return layer


def resnet_layer(path: str) -> SourceLayer | None:
    """Returns how keras.applications calls a layer of ResNet, by its path of ours."""
    if path == "backbone/stem":
        return SourceLayer("conv1_conv", "conv1_bn", reverse_input=True)
    match = _RESNET_UNIT.fullmatch(path)
    if match is None:
        return None
    name = f"conv{int(match[1]) + 1}_block{match[2]}_{match[4] or 0}"
    return SourceLayer(f"{name}_conv", f"{name}_bn")


TRANSLATIONS: Mapping[str, Translation] = {
    "mobilenet_v3_large": Translation(KERAS, mobilenet_v3_layer(), 1e-3),
    "mobilenet_v3_small": Translation(KERAS, mobilenet_v3_layer(last=13), 1e-3),
    "resnet50_caffe": Translation(KERAS, resnet_layer, 1.001e-5),
    "resnet101_caffe": Translation(KERAS, resnet_layer, 1.001e-5),
}


def read_variables(path: str | Path, backbone: str) -> dict[str, np.ndarray]:
    """Reads a Keras weights file.

    Args:
        path: HDF5 file as `model.save_weights("x.h5")` or `model.save("x.h5")` writes it and as Keras
            publishes them, or "imagenet" for the published weights themselves.
        backbone: Which network "imagenet" means.

    Returns:
        Arrays by name of layer and variable, such as "conv1_conv/kernel".

    Raises:
        UserError: The file is no such file, or the download failed.
    """
    return _download(backbone) if str(path) == IMAGENET else _read_hdf5(Path(path))


def _download(backbone: str) -> dict[str, np.ndarray]:
    import tf_keras as keras

    name = _MODELS[backbone]
    try:
        model = getattr(keras.applications, name)(weights=IMAGENET, include_top=False)
    except Exception as error:  # Keras raises a bare Exception where a download fails.
        raise UserError(f"{IMAGENET}: no weights of {name} ({' '.join(str(error).split())[:200]})") from None
    return {
        f"{layer.name}/{_last_part(variable.name)}": variable.numpy()
        for layer in model.layers
        for variable in layer.variables
    }


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            if "layer_names" not in root.attrs and "layer_names0" not in root.attrs:
                raise UserError(f"{path}: no Keras weights by layer name; save them with model.save_weights('x.h5')")
            found: dict[str, np.ndarray] = {}
            # Layers have slashes in their names, so groups nest; a variable is an array wherever it lies.
            root.visititems(lambda name, item: _collect(found, name, item, h5py.Dataset))
            return found
    except OSError as error:
        raise UserError(f"{path}: no HDF5 file ({' '.join(str(error).split())[:200]})") from None


def _collect(found: dict[str, np.ndarray], name: str, item: object, kind: type) -> None:
    if isinstance(item, kind):
        # Keras writes layer/name/of/variable with the layer's name once more at the head of the variable's.
        parts = name.split("/")
        half = (len(parts) - 1) // 2
        layer = parts[:half] if parts[:half] == parts[half:-1] else parts[:-1]
        found["/".join((*layer, _last_part(name)))] = item[()]


def _last_part(name: str) -> str:
    return name.rpartition("/")[2].partition(":")[0]
