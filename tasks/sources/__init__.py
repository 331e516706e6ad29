"""Where a model comes from: the user's torch factory, or an ONNX file."""
