"""ONNX files of fewer bits, and how each provider executes them."""
