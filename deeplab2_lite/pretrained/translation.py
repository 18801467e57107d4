"""Carrying arrays of one code base over to the names and layouts of this library.

The network is walked, not the source: each of its layers knows by what names the source calls its
convolution and its batch normalization, so that nothing of it can be forgotten. Three things are
carried over by value, exactly, wherever moving statistics normalize: a bias before a normalization
goes into the moving mean; another epsilon goes into gamma; another order of colours goes into the first
kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from deeplab2_lite.errors import UserError
from deeplab2_lite.pretrained.report import ImportReport

LOGITS = "semantic/head/logits/"

_CONVOLUTION = "conv"
_NORMALIZATION = "bn"


class SourceLayer(NamedTuple):
    """The names that a source has for one layer.

    Attributes:
        convolution: Of its convolution.
        normalization: Of the batch normalization after it; None if there is none.
        reverse_input: The source's images are BGR, and this is the convolution that sees them.
    """

    convolution: str
    normalization: str | None = None
    reverse_input: bool = False


class Dialect(NamedTuple):
    """How a code base calls and lays out the variables of a layer.

    Attributes:
        variables: Its names of ours: kernel, depthwise_kernel, bias, gamma, beta, moving_mean,
            moving_variance.
        separator: Between the name of a layer and that of its variable.
        channels_first: Kernels are [out, in, height, width], depthwise ones [channels, 1, height, width].
        no_weights: Ends of names that are state of the training: never reported as left over.
    """

    variables: Mapping[str, str]
    separator: str = "/"
    channels_first: bool = False
    no_weights: tuple[str, ...] = ()


class Translation(NamedTuple):
    """How the weights of one architecture are found in one kind of source.

    Attributes:
        dialect: Of the source.
        layer: From the path of a layer of ours ("backbone/block2/unit1/conv1") to the source's names;
            None where the source has none.
        epsilon: Of the source's batch normalizations.
    """

    dialect: Dialect
    layer: Callable[[str], SourceLayer | None]
    epsilon: float


class Translated(NamedTuple):
    """Arrays by structural path, and what became of every weight."""

    weights: Mapping[str, np.ndarray]
    report: ImportReport


def translate(
    shapes: Mapping[str, tuple[int, ...]],
    variables: Mapping[str, np.ndarray],
    translation: Translation,
    epsilon: float,
    origin: str,
    fresh_logits: bool = False,
    hint: str = "",
) -> Translated:
    """Finds the value of each variable of a network in a source.

    Args:
        shapes: Shapes of the network's variables by structural path.
        variables: The source's arrays by its own names.
        translation: How to find them.
        epsilon: Of the network's batch normalizations.
        origin: The source's path, for messages.
        fresh_logits: Leave out the layer that says the classes.
        hint: Appended where a shape differs.

    Returns:
        The arrays for the network, float32, and the report.

    Raises:
        UserError: A variable is missing in the source or has another shape.
    """
    reader = _Reader(shapes, variables, translation, epsilon, origin)
    weights: dict[str, np.ndarray] = {}
    skipped = []
    for path, shape in shapes.items():
        found = None if fresh_logits and path.startswith(LOGITS) else reader.find(path)
        if found is None:
            skipped.append(path)
            continue
        if found.value.shape != tuple(shape):
            advice = "; --fresh_logits leaves it as it is" if path.startswith(LOGITS) else hint
            raise UserError(
                f"{origin}: '{found.name}' has shape {list(found.value.shape)}, expected {list(shape)} "
                f"for '{path}'{advice}"
            )
        weights[path] = found.value.astype(np.float32)
    left_over = [n for n in variables if n not in reader.used and not n.endswith(translation.dialect.no_weights)]
    return Translated(weights, ImportReport(tuple(weights), tuple(skipped), tuple(left_over)))


class _Found(NamedTuple):
    """An array in our layout, and the source's name of it."""

    value: np.ndarray
    name: str


class _Reader:
    """Finds the values of our variables in a source; `used` has the source's names that were read."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        variables: Mapping[str, np.ndarray],
        translation: Translation,
        epsilon: float,
        origin: str,
    ) -> None:
        self._shapes = shapes
        self._variables = variables
        self._translation = translation
        self._epsilon = epsilon
        self._origin = origin
        self.used: set[str] = set()

    def find(self, path: str) -> _Found | None:
        """Returns the value of a variable of ours; None if the source has no such layer."""
        layer, kind, variable = path.rsplit("/", 2)
        source = self._translation.layer(layer)
        if source is None:
            return None
        if kind == _NORMALIZATION and source.normalization is not None:
            return self._normalization(layer, source, variable, path)
        return self._convolution(source, variable, path) if kind == _CONVOLUTION else None

    def _convolution(self, source: SourceLayer, variable: str, path: str) -> _Found:
        value, name = self._read(source.convolution, variable, path)
        if self._translation.dialect.channels_first and value.ndim == 4:
            value = value.transpose((2, 3, 0, 1) if variable == "depthwise_kernel" else (2, 3, 1, 0))
        if source.reverse_input and variable == "kernel":
            value = value[..., ::-1, :]
        return _Found(value, name)

    def _normalization(self, layer: str, source: SourceLayer, variable: str, path: str) -> _Found:
        found = self._read(source.normalization, variable, path)
        ours, theirs = self._epsilon, self._translation.epsilon
        if variable == "gamma" and theirs != ours:
            # gamma / sqrt(variance + epsilon) stays what it was.
            variance = self._read(source.normalization, "moving_variance", path)
            self._check_same_shape(found, variance)
            wide = variance.value.astype(np.float64)
            return found._replace(value=found.value * np.sqrt((wide + ours) / (wide + theirs)))
        has_bias = f"{layer}/{_CONVOLUTION}/bias" in self._shapes
        if variable == "moving_mean" and not has_bias and self._name(source.convolution, "bias") in self._variables:
            bias = self._read(source.convolution, "bias", path)
            self._check_same_shape(found, bias)
            return found._replace(value=found.value - bias.value)
        return found

    def _check_same_shape(self, first: _Found, second: _Found) -> None:
        if first.value.shape != second.value.shape:
            raise UserError(
                f"{self._origin}: '{second.name}' has shape {list(second.value.shape)}, expected "
                f"{list(first.value.shape)} as '{first.name}'"
            )

    def _name(self, layer: str, variable: str) -> str:
        dialect = self._translation.dialect
        return f"{layer}{dialect.separator}{dialect.variables[variable]}"

    def _read(self, layer: str, variable: str, path: str) -> _Found:
        name = self._name(layer, variable)
        if name not in self._variables:
            raise UserError(f"{self._origin}: no '{name}', which '{path}' needs; the weights are of another network")
        self.used.add(name)
        return _Found(np.asarray(self._variables[name]), name)
