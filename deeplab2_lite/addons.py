"""TensorFlow Addons' large-batch and averaging optimizers, on a TensorFlow that Addons never saw.

Addons is end-of-life: its wheels end at Python 3.11, and its import asks for a module of Keras 2 by a
name that has moved to tf_keras. Everything about that is here, and happens only when asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from deeplab2_lite.errors import UserError, nearest_name

PREFIX = "tfa/"


def addons_optimizer_class(name: str) -> type:
    """Returns an optimizer class of TensorFlow Addons.

    Args:
        name: Its name there, such as "LAMB", "RectifiedAdam", "NovoGrad", "Lookahead", "SWA".

    Returns:
        The class.

    Raises:
        UserError: Addons cannot be imported here, or has no such optimizer.
    """
    optimizers = _import_addons().optimizers
    names = [n for n in dir(optimizers) if isinstance(getattr(optimizers, n), type) and _is_optimizer(optimizers, n)]
    if name not in names:
        raise UserError(
            f"train.optimizer.name: TensorFlow Addons has no optimizer '{name}'{nearest_name(name, names, PREFIX)}"
        )
    return getattr(optimizers, name)


def is_wrapper(optimizer_class: type) -> bool:
    """Whether an Addons optimizer wraps another (Lookahead, MovingAverage, SWA)."""
    optimizers = _import_addons().optimizers
    return issubclass(optimizer_class, optimizers.Lookahead | optimizers.AveragedOptimizerWrapper)


def _is_optimizer(optimizers: ModuleType, name: str) -> bool:
    return issubclass(getattr(optimizers, name), optimizers.KerasLegacyOptimizer) and name not in (
        "AveragedOptimizerWrapper",
        "KerasLegacyOptimizer",
        "MultiOptimizer",
        # These take no schedule of learning rates.
        "COCOB",
        "ConditionalGradient",
    )


def _import_addons() -> ModuleType:
    if "tensorflow_addons" in sys.modules:
        return sys.modules["tensorflow_addons"]
    if sys.version_info >= (3, 12):
        raise UserError(
            "train.optimizer.name: TensorFlow Addons has no release for Python 3.12 and later; "
            "built-in alternatives: adam, adamw, sgd, lamb"
        )
    # Addons reaches for tf.keras, which is Keras 3 unless this is set before its first use.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    import tensorflow as tf
    import tf_keras

    if tf.keras.optimizers.Optimizer is not tf_keras.optimizers.Optimizer:
        raise UserError(
            "train.optimizer.name: TensorFlow Addons needs the environment variable TF_USE_LEGACY_KERAS=1, "
            "set before TensorFlow is imported"
        )
    with warnings.catch_warnings(), _modules_that_moved():
        # It warns of its own end and of a TensorFlow newer than itself; the user asked for it by name.
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("tensorflow_addons")
        except ImportError as error:
            raise UserError(
                f"train.optimizer.name: TensorFlow Addons cannot be imported ({error}); "
                "pip install tensorflow-addons==0.23.0, or use adam, adamw, sgd, lamb"
            ) from None


@contextlib.contextmanager
def _modules_that_moved() -> Iterator[None]:
    """Lets `keras.src.engine` and `tensorflow.keras.*` be imported, as those of Keras 2."""
    import tensorflow as tf
    import tf_keras.src.engine

    # Not mock.patch.dict, which would take all that Addons imports out of sys.modules again.
    moved, before = "keras.src.engine", tf.__path__
    sys.modules[moved] = tf_keras.src.engine
    # TensorFlow does the same when the environment variable is there before its own import.
    tf.__path__ = [str(Path(tf_keras.__file__).parent / "api" / "_v2"), *before]
    try:
        yield
    finally:
        del sys.modules[moved]
        tf.__path__ = before
