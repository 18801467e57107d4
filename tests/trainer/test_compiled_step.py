"""Training and evaluation are programs that XLA compiles as a whole: static shapes, nothing but accounts outside."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.checkpoints import named_weights
from deeplab2_lite.config_loading import resolve_dataset_info
from deeplab2_lite.data.record_index import open_records
from deeplab2_lite.panoptic_losses import loss_terms
from deeplab2_lite.trainer.evaluator import PanopticEvaluator

from .test_loop import make_trainer
from .tiny import changed, tiny_trainer, values

# What a step leaves to the host: the input and the time that it takes, the count of steps, whether to go on.
HOST = {
    "AssignAddVariableOp", "AssignVariableOp", "Const", "Equal", "Identity", "If", "IteratorGetNext", "Less",
    "LogicalAnd", "LogicalNot", "LogicalOr", "NoOp", "NotEqual", "Placeholder", "Range", "ReadVariableOp", "SelectV2",
    "StatefulPartitionedCall", "Sub", "Timestamp",
}  # fmt: skip


def with_xla(config):
    return dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, xla=True))


def outside_and_inside(trainer):
    """Returns the operations of a traced training step outside and inside of what XLA must compile."""
    step = tf.function(trainer.train_step).get_concrete_function(iter(trainer.train_dataset))
    graph = step.graph.as_graph_def()
    functions = {function.signature.name: function for function in graph.library.function}
    compiled = {name for name, function in functions.items() if function.attr["_XlaMustCompile"].b}
    called_inside, waiting = set(), sorted(compiled)
    while waiting:
        name = waiting.pop()
        if name not in called_inside:
            called_inside.add(name)
            waiting += [callee for node in functions[name].node_def for callee in callees(node) if callee in functions]
    outside = {node.op for node in graph.node}
    for name, function in functions.items():
        if name not in called_inside:
            outside |= {node.op for node in function.node_def}
    return outside, {node.op for name in called_inside for node in functions[name].node_def}


def callees(node):
    for value in node.attr.values():
        yield from [value.func.name] if value.HasField("func") else [func.name for func in value.list.func]


def test_all_that_computes_is_in_one_program(config):
    trainer, _ = tiny_trainer(with_xla(changed(config, train={"accumulation_steps": 2, "ema_decay": 0.9})))
    outside, inside = outside_and_inside(trainer)
    assert outside <= HOST, outside - HOST
    assert {"Conv2DBackpropFilter", "FusedBatchNormGradV3", "Bitcast"} <= inside
    # Without it, all that lies outside.
    plain, _ = tiny_trainer(config)
    outside, inside = outside_and_inside(plain)
    assert "Conv2DBackpropFilter" in outside - HOST and not inside


def test_the_compiled_step_learns_what_the_plain_one_does(config):
    config = changed(config, train={"accumulation_steps": 2, "ema_decay": 0.9, "max_skipped_batches": 1})
    weights = []
    for each in (config, with_xla(config)):
        trainer, state = tiny_trainer(each)
        before = values(named_weights(state.network))
        trainer.train(tf.constant(3))
        weights.append(values(named_weights(state.network)))
    plain, compiled = (np.concatenate([w[name].ravel() - before[name].ravel() for name in before]) for w in weights)
    assert np.linalg.norm(compiled - plain) < 1e-3 * np.linalg.norm(plain) > 0


def break_losses(monkeypatch, break_heads):
    """Lets the losses do something else, too."""

    def broken(heads, targets, config):
        return loss_terms(break_heads(heads, targets), targets, config)

    monkeypatch.setattr("deeplab2_lite.trainer.panoptic.loss_terms", broken)


def test_what_a_tpu_has_no_operation_for_is_found(config, monkeypatch):
    def break_heads(heads, targets):
        tf.print(tf.strings.as_string(targets.semantic_weight[0, 0, 0]))
        return heads

    break_losses(monkeypatch, break_heads)
    trainer, _ = tiny_trainer(with_xla(config))
    with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
        trainer.train(tf.constant(1))


def sizes_unknown(trainer):
    """Returns the operations of a replica's step that give tensors of a size which is not known beforehand."""
    batch = next(iter(trainer.train_dataset))
    step = tf.function(trainer._replica_step).get_concrete_function(batch, tf.constant(False))
    tensors = [tensor for operation in step.graph.get_operations() for tensor in operation.outputs]
    unknown = {t.op.type for t in tensors if t.dtype != tf.resource and not t.shape.is_fully_defined()}
    # What fused normalization keeps for its gradient is its own affair.
    return unknown - {"FusedBatchNormV3", "ZerosLike"}


def test_all_sizes_are_static(config, monkeypatch):
    on_device = dataclasses.replace(config.targets, on_device=True)
    config = changed(config, train={"accumulation_steps": 2, "ema_decay": 0.9}, targets=on_device)
    trainer, _ = tiny_trainer(config)
    assert sizes_unknown(trainer) == set()

    def break_heads(heads, targets):
        hard = tf.boolean_mask(targets.semantic_weight, targets.semantic_weight > 1.0)
        return heads._replace(center_heatmap=heads.center_heatmap + tf.reduce_sum(hard))

    break_losses(monkeypatch, break_heads)
    assert "Where" in sizes_unknown(trainer)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "resnet50_beta"])
def test_the_whole_networks_step_compiles(config, backbone):
    model = dataclasses.replace(config.model, backbone=dataclasses.replace(config.model.backbone, name=backbone))
    targets = dataclasses.replace(config.targets, on_device=True)
    config = changed(dataclasses.replace(config, targets=targets), train={"recompute_activations": True})
    config = dataclasses.replace(config, model=model)
    weights = []
    for each in (config, with_xla(config)):
        trainer, state = make_trainer(each)
        before = values(named_weights(state.network))
        trainer.train(tf.constant(2))
        weights.append(values(named_weights(state.network)))
    plain, compiled = (np.concatenate([w[name].ravel() - before[name].ravel() for name in before]) for w in weights)
    assert np.linalg.norm(compiled - plain) < 1e-2 * np.linalg.norm(plain) > 0


def test_the_evaluation_step_compiles_to_the_same_maps(config, tmp_path):
    evaluation = dataclasses.replace(config.evaluation, fixed_size=(65, 97), batch_size=2)
    config = dataclasses.replace(config, evaluation=evaluation)
    _, state = tiny_trainer(config)
    info, index = resolve_dataset_info(config), open_records(config.data.dir, config.data.eval_split)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    evaluator = PanopticEvaluator(config, info, index, strategy, state.network, state.global_step, tmp_path)
    batch = next(iter(evaluator._dataset))
    assert all(tensor.shape.is_fully_defined() and tensor.dtype != tf.string for tensor in tf.nest.flatten(batch))
    plain = tf.function(evaluator._predict)(batch)
    compiled = tf.function(evaluator._predict, jit_compile=True)(batch)
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(compiled[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
