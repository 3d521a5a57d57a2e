"""Bring your own model: a checkpoint or an ONNX file becomes a run."""
