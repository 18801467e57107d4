"""Whether the graph being built is for XLA, where some operations are slow and dynamic sizes are not to be had."""

from __future__ import annotations

import tensorflow as tf


def is_compiled_by_xla() -> bool:
    """Tells whether operations made now become part of a program that XLA compiles.

    That holds while a `tf.function(jit_compile=True)` is traced, in functions that it calls, and on TPUs.
    Both kinds of graph give the same results; this only chooses the faster operations for each.

    Returns:
        False in eager execution and in graphs that TensorFlow itself runs.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    while graph is not None:
        # Keras tells in the same way whether it is inside: there is no public name for it.
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False
