"""Times inference, the merge and the training step on whatever device JAX has, without TensorFlow there.

    python benchmarks/xla_device.py export artefacts     # where TensorFlow is: writes StableHLO, weights and inputs
    python benchmarks/xla_device.py run artefacts        # where JAX and NumPy are, and nothing else is needed

By default what the paper's Table 9 times on a V100, at 1025 x 2049, batch 1, from the image to the panoptic map:
ResNet-50 117 ms, Xception-71 175 ms, of which the merge takes 3. And a training step of both, which it does not time.

Weights are random, which costs as much as any. The merge would have nothing to do on what such a network says, so it
takes the heads of a drawn street scene in their place, which are an input; the network runs all the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

EXPERIMENTS = ("cityscapes/resnet50_beta", "cityscapes/xception71")
# Milliseconds of the merge alone (paper, section 4).
PUBLISHED_MERGE = 3
PROGRAMS = ("inference", "merge", "step")
INPUTS, BENCHMARK = "inputs.npz", "benchmark.json"
INSTANCES = 20


def export(
    folder: Path,
    experiments: Sequence[str],
    size: tuple[int, int],
    overrides: str,
    instances: int,
    programs: Sequence[str] = PROGRAMS,
) -> None:
    """Writes a folder for each program: inference and training step of each experiment, and the merge of the first."""
    from deeplab2_lite.config_loading import load_config

    for number, name in enumerate(experiments):
        config = load_config(name, f"{overrides},train.batch_size=1" if overrides else "train.batch_size=1")
        backbone = config.model.backbone.name
        if number == 0 and "merge" in programs:
            export_merge(folder / "merge", config, size, instances)
        if "inference" in programs:
            export_inference(folder / backbone, config, size, instances)
        if "step" in programs:
            export_training(folder / f"{backbone}_step", config)


def export_inference(folder: Path, config: Any, size: tuple[int, int], instances: int) -> None:
    import tensorflow as tf

    from deeplab2_lite.config_loading import resolve_dataset_info
    from deeplab2_lite.inference import InferenceSettings, infer
    from deeplab2_lite.model import build_model
    from deeplab2_lite.postprocessing.upsampling import Heads, as_heads

    info = resolve_dataset_info(config)
    settings = InferenceSettings.from_config(config, info)
    network = build_model(config, info.num_classes)
    heads = drawn_heads(config, size, instances)

    def segment(images: tf.Tensor, use_drawn: tf.Tensor, *drawn: tf.Tensor) -> dict[str, tf.Tensor]:
        def seen(padded: tf.Tensor, training: bool) -> Heads:
            found = as_heads(network(padded, training=training))
            # An input, so that no compiler can leave the network out.
            return Heads(*(tf.where(use_drawn, a, b) for a, b in zip(drawn, found, strict=True)))

        return {"panoptic": infer(seen, images, settings).result.panoptic}

    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    inputs = {"images": image, "use_drawn": np.array(True), **heads}
    milliseconds = config.published.milliseconds if config.published else None
    write(folder, segment, inputs, f"{config.model.backbone.name}, image to panoptic map", milliseconds)


def export_merge(folder: Path, config: Any, size: tuple[int, int], instances: int) -> None:
    import tensorflow as tf

    from deeplab2_lite.config_loading import resolve_dataset_info
    from deeplab2_lite.inference import InferenceSettings
    from deeplab2_lite.postprocessing.upsampling import Heads, Upsampling

    settings = InferenceSettings.from_config(config, resolve_dataset_info(config))

    def merge(*heads: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"panoptic": settings.merge(Heads(*heads), Upsampling(*padded(size, settings), *size)).panoptic}

    text = "merge alone, upsampling of the heads included"
    write(folder, merge, drawn_heads(config, size, instances), text, PUBLISHED_MERGE)


def export_training(folder: Path, config: Any) -> None:
    import tensorflow as tf

    from deeplab2_lite.config_loading import resolve_dataset_info
    from deeplab2_lite.data.shapes import generate_scene
    from deeplab2_lite.data.targets import make_targets
    from deeplab2_lite.dataset_info import load_preset
    from deeplab2_lite.trainer.step_program import export_step

    export_step(config, resolve_dataset_info(config), folder)
    image, panoptic = generate_scene(0, "benchmark", 0, *config.data.crop_size)
    targets = make_targets(tf.constant(panoptic), load_preset("shapes"), config.targets)
    # The scene has fewer classes than the network, of the same numbers.
    inputs = {"image": image.astype(np.float32), **{k: v.numpy() for k, v in targets._asdict().items()}}
    height, width = config.data.crop_size
    text = f"{config.model.backbone.name}, training step, batch 1, {height} x {width}"
    describe(folder, {name: value[None] for name, value in inputs.items()}, text, None)


def write(folder: Path, function: Any, inputs: dict[str, np.ndarray], text: str, published: int | None) -> None:
    """Writes a function of arrays as StableHLO, and what it is timed on."""
    import tensorflow as tf

    from deeplab2_lite.files import atomic_folder
    from deeplab2_lite.runtimes.exporting import write_manifest
    from deeplab2_lite.runtimes.to_stablehlo import convert_function

    specs = [tf.TensorSpec(value.shape, value.dtype, name) for name, value in inputs.items()]
    compiled = tf.function(function, autograph=False, jit_compile=True)
    with atomic_folder(folder) as temporary:
        write_manifest(temporary, {"format": "stablehlo", **convert_function(compiled, specs, temporary)})
    describe(folder, inputs, text, published)


def describe(folder: Path, inputs: dict[str, np.ndarray], text: str, published: int | None) -> None:
    np.savez_compressed(folder / INPUTS, **inputs)
    (folder / BENCHMARK).write_text(json.dumps({"text": text, "published_ms": published}) + "\n")
    print(folder, flush=True)


def drawn_heads(config: Any, size: tuple[int, int], instances: int) -> dict[str, np.ndarray]:
    """Heads of a scene at stride 4, with a batch dimension, by name."""
    from deeplab2_lite.benchmark.scene import draw_heads
    from deeplab2_lite.config_loading import resolve_dataset_info
    from deeplab2_lite.inference import InferenceSettings
    from deeplab2_lite.postprocessing.upsampling import Heads

    info = resolve_dataset_info(config)
    settings = InferenceSettings.from_config(config, info)
    stride = min(config.model.decoder.skip_strides)
    coarse = tuple((side - 1) // stride + 1 for side in padded(size, settings))
    heads = draw_heads(info, coarse, size, instances, settings.nms_kernel, settings.center_threshold, 0, stride)
    return {name: head[None] for name, head in zip(Heads._fields, heads, strict=True)}


def padded(size: tuple[int, int], settings: Any) -> tuple[int, int]:
    stride = settings.output_stride
    height, width = ((side + stride - 2) // stride * stride + 1 for side in size)
    return height, width


def run(folder: Path, runs: int) -> list[dict[str, Any]]:
    """Times each program in a folder. Imports JAX and NumPy alone."""
    import jax

    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), JAX {jax.__version__}", flush=True)
    print("program | ms | quartiles | compiling, s | V100 in the paper, ms")
    rows = []
    for path in sorted(path.parent for path in folder.glob(f"*/{BENCHMARK}")):
        row = time_program(path, runs)
        published = "-" if row["published_ms"] is None else row["published_ms"]
        low, high = row["quartiles_ms"]
        print(
            f"{row['text']} | {row['ms']:.1f} | {low:.1f}-{high:.1f} | {row['compile_s']:.0f} | {published}", flush=True
        )
        rows.append(row)
    return rows


def time_program(folder: Path, runs: int) -> dict[str, Any]:
    import jax

    # The export brings what runs it.
    spec = importlib.util.spec_from_file_location("jax_module", folder / "jax_module.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    start = time.perf_counter()
    program = module.JaxModule(folder)
    compile_seconds = time.perf_counter() - start
    with np.load(folder / INPUTS) as file:
        inputs = {name: program.put(file[name]) for name in file.files}
    times = []
    for number in range(runs + 2):
        start = time.perf_counter()
        outputs = jax.block_until_ready(program(**inputs))
        if number >= 2:
            times.append(1e3 * (time.perf_counter() - start))
    for name, value in outputs.items():
        if not np.isfinite(np.asarray(value)).all():
            raise RuntimeError(f"{folder}: {name} is not finite")
    quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return {
        **json.loads((folder / BENCHMARK).read_text()),
        "ms": quartiles[1],
        "quartiles_ms": (quartiles[0], quartiles[2]),
        "compile_s": compile_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export", help="write the programs (TensorFlow)")
    exporting.add_argument("folder", type=Path)
    exporting.add_argument("--experiment", action="append", metavar="NAME", help=f"instead of {', '.join(EXPERIMENTS)}")
    exporting.add_argument("--program", action="append", choices=PROGRAMS, help="instead of all")
    exporting.add_argument("--input_size", default="1025x2049", metavar="HxW")
    exporting.add_argument("--instances", type=int, default=INSTANCES, help="in the drawn scene (%(default)s)")
    exporting.add_argument("--params_override", default="", metavar="A.B=C,...")
    running = commands.add_parser("run", help="time them (JAX)")
    running.add_argument("folder", type=Path)
    running.add_argument("--runs", type=int, default=20)
    running.add_argument("--output", type=Path, help="a JSON file of the rows")
    arguments = parser.parse_args()
    if arguments.command == "export":
        size = tuple(int(side) for side in arguments.input_size.split("x"))
        experiments, programs = arguments.experiment or EXPERIMENTS, arguments.program or PROGRAMS
        export(arguments.folder, experiments, size, arguments.params_override, arguments.instances, programs)
        return
    rows = run(arguments.folder, arguments.runs)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
