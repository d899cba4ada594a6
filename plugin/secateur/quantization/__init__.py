"""Fewer bits for the filters that matter less."""

from secateur.quantization.calibration import calibrated
from secateur.quantization.levels import bit_plan, largest_uniform, uniform_bits
from secateur.quantization.network import fake_quantized, quantize_network
from secateur.quantization.plan import BitPlan
from secateur.quantization.quantizer import (
    Quantized,
    ThresholdRule,
    dequantize,
    kl_thresholds,
    least_squares_thresholds,
    quantize,
    thresholds_of,
)
from secateur.quantization.ranges import ActivationRange, round_activation, round_inputs
from secateur.quantization.storage import load_quantized, quantized_bytes, save_quantized

__all__ = [
    "ActivationRange",
    "BitPlan",
    "Quantized",
    "ThresholdRule",
    "bit_plan",
    "calibrated",
    "dequantize",
    "fake_quantized",
    "kl_thresholds",
    "largest_uniform",
    "least_squares_thresholds",
    "load_quantized",
    "quantize",
    "quantize_network",
    "quantized_bytes",
    "round_activation",
    "round_inputs",
    "save_quantized",
    "thresholds_of",
    "uniform_bits",
]
