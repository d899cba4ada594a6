"""Pruning by feature maps, as a plugin for Torch-Pruning, NNI and ONNX Runtime."""
