"""From source files to TFRecord shards: planned, run in processes or by Apache Beam, resumed, and accounted for."""

from deeplab2_lite.data.conversion.output import Conversion
from deeplab2_lite.data.conversion.processes import convert

__all__ = ["Conversion", "convert"]
