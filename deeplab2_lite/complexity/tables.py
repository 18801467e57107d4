"""The rows of the paper's Tables 1, 5, 9 and 10 that are its own networks, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from deeplab2_lite.complexity import networks as networks
from deeplab2_lite.config import ModelConfig, Size

CITYSCAPES, MAPILLARY_VISTAS, COCO = "cityscapes", "mapillary_vistas", "coco"

_CITYSCAPES_SIZE = (1025, 2049)
_MAPILLARY_SIZE = (2177, 2177)
_NUM_CLASSES = {CITYSCAPES: 19, MAPILLARY_VISTAS: 65, COCO: 133}
# COCO's category ids go up to 200.
_COCO_OUTPUTS = 201

_CROP_NOTE = "counted with the small crop's pooling window, as the paper's figure is"
_SIZE_NOTE = "the table says 2177 x 2177; its M-Adds are those of 2161 x 2161"
_HRNET_NOTE = "the paper publishes only a part of this network, and the published HRNet does not give its figures"
_L_PLUS_NOTE = "the caption gives the stride-8 skip to XL++ alone; the figures of L+ need it too"
_MOBILENET_NOTE = "the widths of the paper's decoder skips are not published"
_COCO_NOTE = "the paper's M-Adds are nearer to 201 outputs (category ids) than to COCO's 133 classes; counted with 201"
_SCALED_NOTE = "the paper's figure is that of 1025 x 1025 times the ratio of the pixels"


@dataclass(frozen=True)
class PaperRow:
    """One row. What the paper leaves out is None.

    Attributes:
        table: Number of the table.
        name: The network, in the table's words.
        data_set: "cityscapes", "mapillary_vistas" or "coco".
        backbone: Backbone in this library.
        experiment: Name of the configuration that reproduces the row, as --experiment takes it.
        model: The network in this library.
        input_size: Height and width that the paper states.
        multiply_adds: Billions of them.
        parameters: Millions of trainable ones.
        pq: PQ on the validation set, in percent.
        pq_test: PQ on the test set (COCO: test-dev), in percent.
        ap: Instance AP on the validation set, in percent.
        miou: Mean IoU on the validation set, in percent.
        milliseconds: From image to panoptic map, on a Tesla V100, batch of one.
        counted_size: Input size whose multiply-adds are nearest to the paper's; None is `input_size`.
        num_outputs: Semantic outputs whose multiply-adds are nearest to the paper's; None is one a class.
        notes: What is to be known about the row's figures.
    """

    table: int
    name: str
    data_set: str
    backbone: str
    experiment: str
    model: ModelConfig
    input_size: Size
    multiply_adds: float
    parameters: float | None = None
    pq: float | None = None
    pq_test: float | None = None
    ap: float | None = None
    miou: float | None = None
    milliseconds: float | None = None
    counted_size: Size | None = None
    num_outputs: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Classes of the data set, things and stuff."""
        return _NUM_CLASSES[self.data_set]


def _table1(
    name: str,
    experiment: str,
    model: ModelConfig,
    quality: tuple[float | None, float | None, float],
    cost: tuple[float, float],
    *notes: str,
) -> PaperRow:
    pq, ap, miou = quality
    return PaperRow(
        table=1,
        name=name,
        data_set=CITYSCAPES,
        backbone="xception71",
        experiment=f"cityscapes/{experiment}",
        model=model,
        input_size=_CITYSCAPES_SIZE,
        parameters=cost[0],
        multiply_adds=cost[1],
        pq=pq,
        ap=ap,
        miou=miou,
        notes=notes,
    )


TABLE_1 = (
    _table1(
        "momentum SGD, cross entropy", "xception71_sgd", networks.SINGLE_DECODER, (60.3, 32.7, 78.2), (41.85, 496.84)
    ),
    _table1("+ Adam", "xception71_adam", networks.SINGLE_DECODER, (61.0, 34.3, 79.4), (41.85, 496.84)),
    _table1("+ MSE", "xception71_mse", networks.SINGLE_DECODER, (61.8, 33.8, 78.6), (41.85, 496.84)),
    _table1("+ dual decoder", "xception71_dual_decoder", networks.DUAL_DECODER, (60.8, 32.7, 79.0), (41.93, 501.88)),
    _table1("+ dual ASPP", "xception71_dual_aspp", networks.DUAL_ASPP, (62.5, 33.9, 78.7), (43.37, 517.17)),
    _table1(
        "+ large crop", "xception71_large_crop", networks.DUAL_ASPP, (62.7, 34.5, 79.6), (43.37, 517.17), _CROP_NOTE
    ),
    _table1("+ C_sem = 256 (final)", "xception71", networks.XCEPTION_71, (63.0, 35.3, 80.5), (46.72, 547.49)),
    _table1(
        "+ C_ins = 256",
        "xception71_wide_instance",
        networks.WIDE_INSTANCE,
        (62.1, 35.1, 80.3),
        (46.88, 573.86),
        _CROP_NOTE,
    ),
    _table1("semantic only", "xception71_semantic", networks.SEMANTIC_ONLY, (None, None, 80.3), (43.60, 518.84)),
)


def _table5(
    name: str, model: ModelConfig, cost: tuple[float, float], quality: tuple[float, float, float], *notes: str
) -> PaperRow:
    pq, ap, miou = quality
    backbone = model.backbone.name
    return PaperRow(
        table=5,
        name=name,
        data_set=MAPILLARY_VISTAS,
        backbone=backbone,
        experiment=f"mapillary_vistas/{backbone}",
        model=model,
        input_size=_MAPILLARY_SIZE,
        counted_size=(2161, 2161),
        parameters=cost[0],
        multiply_adds=cost[1],
        pq=pq,
        ap=ap,
        miou=miou,
        notes=(_SIZE_NOTE, *notes),
    )


TABLE_5 = (
    _table5("Xception-65", networks.XCEPTION_65_SQUARE_CROP, (44.31, 1054.05), (39.2, 16.4, 56.9)),
    _table5("Xception-71", networks.XCEPTION_71_SQUARE_CROP, (46.73, 1264.32), (40.3, 17.2, 56.8)),
    _table5("HRNet-W48", networks.HRNET_W48, (71.66, 2304.87), (39.3, 17.2, 55.4), _HRNET_NOTE),
    _table5("HRNet-W48+", networks.HRNET_W48_PLUS, (88.87, 2208.04), (40.6, 17.8, 57.6), _HRNET_NOTE),
    _table5("HRNet-W48+ (Atrous)", networks.HRNET_W48_PLUS_ATROUS, (88.87, 2972.02), (40.5, 17.7, 57.4), _HRNET_NOTE),
    _table5("HRNet-Wider+", networks.HRNET_WIDER_PLUS, (60.05, 1315.70), (40.0, 17.0, 57.0), _HRNET_NOTE),
    _table5(
        "HRNet-Wider+ (Atrous)", networks.HRNET_WIDER_PLUS_ATROUS, (60.05, 1711.69), (39.7, 16.8, 56.5), _HRNET_NOTE
    ),
    _table5("Auto-DeepLab-L+", networks.AUTO_DEEPLAB_L_PLUS, (41.54, 1493.78), (39.3, 15.8, 56.9), _L_PLUS_NOTE),
    _table5("Auto-DeepLab-XL+", networks.AUTO_DEEPLAB_XL_PLUS, (71.98, 2378.17), (40.3, 16.3, 57.1)),
    _table5("Auto-DeepLab-XL++", networks.AUTO_DEEPLAB_XL_PLUS_PLUS, (72.16, 2386.81), (40.3, 16.9, 57.6)),
)


def _table9(
    name: str,
    data_set: str,
    experiment: str,
    model: ModelConfig,
    input_size: Size,
    quality: tuple[float, float | None],
    speed: tuple[float, float],
    **details: Any,
) -> PaperRow:
    return PaperRow(
        table=9,
        name=name,
        data_set=data_set,
        backbone=model.backbone.name,
        experiment=f"{data_set}/{experiment}",
        model=model,
        input_size=input_size,
        pq=quality[0],
        pq_test=quality[1],
        milliseconds=speed[0],
        multiply_adds=speed[1],
        **details,
    )


_COCO_DETAILS = {"num_outputs": _COCO_OUTPUTS, "notes": (_COCO_NOTE,)}

TABLE_9 = (
    _table9(
        "MobileNetV3",
        CITYSCAPES,
        "mobilenet_v3_large",
        networks.MOBILENET_V3,
        _CITYSCAPES_SIZE,
        (55.4, 54.1),
        (63, 54.17),
        notes=(_MOBILENET_NOTE,),
    ),
    _table9(
        "ResNet-50", CITYSCAPES, "resnet50_beta", networks.RESNET_50, _CITYSCAPES_SIZE, (59.7, 58.0), (117, 381.39)
    ),
    _table9(
        "Xception-71", CITYSCAPES, "xception71", networks.XCEPTION_71, _CITYSCAPES_SIZE, (63.0, 60.7), (175, 547.49)
    ),
    _table9(
        "MobileNetV3",
        MAPILLARY_VISTAS,
        "mobilenet_v3_large",
        networks.MOBILENET_V3_SQUARE_CROP,
        _MAPILLARY_SIZE,
        (28.8, None),
        (148, 138.12),
        notes=(_MOBILENET_NOTE,),
    ),
    _table9(
        "ResNet-50",
        MAPILLARY_VISTAS,
        "resnet50_beta",
        networks.RESNET_50_SQUARE_CROP,
        _MAPILLARY_SIZE,
        (33.3, None),
        (286, 910.47),
    ),
    _table9(
        "Xception-71",
        MAPILLARY_VISTAS,
        "xception71",
        networks.XCEPTION_71_SQUARE_CROP,
        _MAPILLARY_SIZE,
        (37.7, None),
        (398, 1264.32),
        counted_size=(2161, 2161),
        notes=(_SIZE_NOTE,),
    ),
    _table9(
        "MobileNetV3",
        COCO,
        "mobilenet_v3_large",
        networks.MOBILENET_V3,
        (641, 641),
        (30.0, 29.8),
        (38, 12.24),
        num_outputs=_COCO_OUTPUTS,
        notes=(_COCO_NOTE, _MOBILENET_NOTE),
    ),
    _table9(
        "ResNet-50", COCO, "resnet50_beta", networks.RESNET_50, (641, 641), (35.1, 35.2), (50, 77.79), **_COCO_DETAILS
    ),
    _table9(
        "Xception-71",
        COCO,
        "xception71_641",
        networks.XCEPTION_71,
        (641, 641),
        (38.9, 38.8),
        (74, 109.21),
        num_outputs=_COCO_OUTPUTS,
        notes=(_COCO_NOTE, _SCALED_NOTE),
    ),
    _table9(
        "Xception-71",
        COCO,
        "xception71",
        networks.XCEPTION_71,
        (1025, 1025),
        (39.7, 39.6),
        (132, 279.25),
        **_COCO_DETAILS,
    ),
)

TABLE_10 = (
    replace(
        TABLE_1[6],
        table=10,
        name="DeepLabV3+ decoder",
        experiment="cityscapes/xception71_deeplab_v3_plus",
        model=networks.DEEPLAB_V3_PLUS,
        pq=62.5,
        ap=34.5,
        miou=80.2,
        milliseconds=176,
        parameters=46.61,
        multiply_adds=553.41,
    ),
    replace(TABLE_1[6], table=10, name="Panoptic-DeepLab decoder", milliseconds=175),
)

TABLES = (TABLE_1, TABLE_5, TABLE_9, TABLE_10)
