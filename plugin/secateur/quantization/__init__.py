"""Fewer bits for the filters that matter less."""

from secateur.quantization.levels import BitPlan, bit_plan, uniform_bits
from secateur.quantization.network import fake_quantized, quantize_network
from secateur.quantization.quantizer import Quantized, dequantize, kl_thresholds, quantize, thresholds_of
from secateur.quantization.storage import load_quantized, quantized_bytes, save_quantized

__all__ = [
    "BitPlan",
    "Quantized",
    "bit_plan",
    "dequantize",
    "fake_quantized",
    "kl_thresholds",
    "load_quantized",
    "quantize",
    "quantize_network",
    "quantized_bytes",
    "save_quantized",
    "thresholds_of",
    "uniform_bits",
]
