"""Packaging: the folders data/, evaluation/, trainer/ and configs/ install under `deeplab2_lite`."""

from setuptools import setup

PACKAGES = {
    "deeplab2_lite": "deeplab2_lite",
    "deeplab2_lite.backbones": "deeplab2_lite/backbones",
    "deeplab2_lite.layers": "deeplab2_lite/layers",
    "deeplab2_lite.benchmark": "deeplab2_lite/benchmark",
    "deeplab2_lite.complexity": "deeplab2_lite/complexity",
    "deeplab2_lite.pretrained": "deeplab2_lite/pretrained",
    "deeplab2_lite.postprocessing": "deeplab2_lite/postprocessing",
    "deeplab2_lite.runtimes": "deeplab2_lite/runtimes",
    "deeplab2_lite.serving": "deeplab2_lite/serving",
    "deeplab2_lite.data": "data",
    "deeplab2_lite.data.conversion": "data/conversion",
    "deeplab2_lite.data.converters": "data/converters",
    "deeplab2_lite.data.inspection": "data/inspection",
    "deeplab2_lite.evaluation": "evaluation",
    "deeplab2_lite.evaluation.comparison": "evaluation/comparison",
    "deeplab2_lite.evaluation.demo": "evaluation/demo",
    "deeplab2_lite.evaluation.html": "evaluation/html",
    "deeplab2_lite.evaluation.metrics": "evaluation/metrics",
    "deeplab2_lite.evaluation.sources": "evaluation/sources",
    "deeplab2_lite.evaluation.submission": "evaluation/submission",
    "deeplab2_lite.trainer": "trainer",
    "deeplab2_lite.configs": "configs",
}

setup(
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    include_package_data=False,  # what package_data names, and nothing else
    package_data={
        "deeplab2_lite": ["py.typed"],
        "deeplab2_lite.configs": ["*/*.yaml"],
        "deeplab2_lite.evaluation.demo": ["*.html", "*.css", "*.js"],
        "deeplab2_lite.evaluation.html": ["*.css", "*.js"],
    },
)
