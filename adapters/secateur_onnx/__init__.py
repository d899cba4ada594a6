"""ONNX for secateur: export, proof that the file computes the same, sessions on the hardware asked for, and timing.

onnx, onnxscript and onnxruntime are imported when a function needs them, never by importing this package.
"""

from secateur_onnx.accuracy import file_accuracy
from secateur_onnx.benchmarking import BenchmarkedFile, BenchmarkResult, benchmark
from secateur_onnx.bootstrap import RatioInterval, ratio_interval
from secateur_onnx.comparison import Comparison, Timing
from secateur_onnx.exporting import ExportResult, export
from secateur_onnx.few_bits.execution import Execution, Form, execution_table, observed_execution
from secateur_onnx.few_bits.quantized import QuantizedExport, export_quantized
from secateur_onnx.few_bits.static_int8 import StaticInt8, export_int8
from secateur_onnx.latency.latency import LATENCY_PROVIDERS, LatencyCost, latency_cost
from secateur_onnx.latency.latency_search import LatencySearch, Round, latency_search
from secateur_onnx.latency.whole_runs import WholeRun, WholeRuns
from secateur_onnx.machine import Machine, describe_machine
from secateur_onnx.memory import peak_memory
from secateur_onnx.metadata import plan_metadata, read_metadata
from secateur_onnx.parity import ParityResult, check_parity
from secateur_onnx.raw_session import PROVIDERS
from secateur_onnx.sessions import create_session, provider_assignment
from secateur_onnx.trial import check_installation

__all__ = [
    "LATENCY_PROVIDERS",
    "PROVIDERS",
    "BenchmarkResult",
    "BenchmarkedFile",
    "Comparison",
    "Execution",
    "ExportResult",
    "Form",
    "LatencyCost",
    "LatencySearch",
    "Machine",
    "ParityResult",
    "QuantizedExport",
    "RatioInterval",
    "Round",
    "StaticInt8",
    "Timing",
    "WholeRun",
    "WholeRuns",
    "benchmark",
    "check_installation",
    "check_parity",
    "create_session",
    "describe_machine",
    "execution_table",
    "export",
    "export_int8",
    "export_quantized",
    "file_accuracy",
    "latency_cost",
    "latency_search",
    "observed_execution",
    "peak_memory",
    "plan_metadata",
    "provider_assignment",
    "ratio_interval",
    "read_metadata",
]
