"""Models for other runtimes than TensorFlow: ONNX, LiteRT, StableHLO and OpenVINO."""
