"""Latency as a cost: layers and whole networks timed in ONNX Runtime, and searches that spend what was measured."""
