"""Sessions run where they were asked to, or not at all."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from secateur.errors import CheckpointError, ConfigError, DataError
from secateur_onnx import create_session, export, provider_assignment
from secateur_onnx.sessions import infer, input_spec


def test_misspelt_provider_lists_the_names(dense_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"'CPU'; allowed: cpu, cuda, tensorrt; available here: cpu"):
        create_session(dense_file, provider="CPU")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_the_build_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, dense_file: Path, provider: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match=rf"'{provider}' is not part.*available here: cpu; .*onnx-gpu"):
        create_session(dense_file, provider=provider)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_load_is_an_error_and_no_cpu_run(
    monkeypatch: pytest.MonkeyPatch, dense_file: Path
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]  # as a build with CUDA says on a machine without
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    with pytest.raises(ConfigError, match=r"'cuda' did not load, and .* would run on CPU.*`secateur doctor` names"):
        create_session(dense_file, provider="cuda")


def test_a_session_that_ended_up_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch, dense_file: Path) -> None:
    class Elsewhere(onnxruntime.InferenceSession):  # type: ignore[misc]  # onnxruntime has no types
        def get_providers(self) -> list[str]:
            return ["AzureExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Elsewhere)
    with pytest.raises(ConfigError, match=r"asked for CPUExecutionProvider, but .* AzureExecutionProvider"):
        create_session(dense_file)


def test_every_node_is_assigned_to_the_cpu(dense_file: Path) -> None:
    assignment = provider_assignment(create_session(dense_file))
    assert list(assignment) == ["CPUExecutionProvider"]
    assert assignment["CPUExecutionProvider"]["Conv"] == 2


def test_assignment_is_empty_where_it_is_not_recorded(dense_file: Path) -> None:
    assert provider_assignment(onnxruntime.InferenceSession(str(dense_file), providers=["CPUExecutionProvider"])) == {}
    assert provider_assignment(object()) == {}  # an older onnxruntime without the method


@pytest.mark.parametrize("threads", [None, 2])
def test_threads_are_fixed(dense_file: Path, threads: int | None) -> None:
    options = create_session(dense_file, threads=threads).get_session_options()
    assert options.intra_op_num_threads == (threads or torch.get_num_threads())
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("threads", [0, 2.5, 100_000])
def test_no_threads_and_threads_beyond_reason_are_refused(dense_file: Path, threads: Any) -> None:
    with pytest.raises(
        ConfigError, match=f"threads must be at least 1 and at most 1024, a whole number; found {threads}"
    ):
        create_session(dense_file, threads=threads)


def test_truncated_foreign_and_missing_files_are_named(tmp_path: Path, dense_file: Path) -> None:
    truncated, foreign, missing = tmp_path / "truncated.onnx", tmp_path / "foreign.onnx", tmp_path / "missing.onnx"
    truncated.write_bytes(dense_file.read_bytes()[:700])
    foreign.write_bytes(b"this is a letter, not a network")
    for path in (truncated, foreign, missing, tmp_path):
        with pytest.raises(CheckpointError, match=path.name):
            create_session(path)


def test_an_operator_that_onnxruntime_does_not_know_is_named(tmp_path: Path) -> None:
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in ("a", "b")]
    node = onnx.helper.make_node("Prune", ["a"], ["b"], domain="somebody.else")
    graph = onnx.helper.make_graph([node], "foreign", value[:1], value[1:])
    sets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("somebody.else", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=sets, ir_version=10), tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match=r"foreign\.onnx.*somebody\.else"):
        create_session(tmp_path / "foreign.onnx")


def test_the_way_out_of_a_convolution_in_float64_is_named(tmp_path: Path) -> None:
    images = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    export(nn.Conv2d(1, 2, 3).double(), images, tmp_path / "double.onnx")
    with pytest.raises(CheckpointError, match=r"lacks for its numbers; export the network in float32: .*Conv"):
        create_session(tmp_path / "double.onnx")


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 16, 16), (3, 16, 16)])
def test_a_batch_of_another_shape_is_refused(dense_file: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"shape \(any, 3, 16, 16\); found \(\d"):
        infer(create_session(dense_file), np.zeros(shape, np.float32))


def test_input_is_described_and_other_floats_are_cast(dense_file: Path) -> None:
    session = create_session(dense_file)
    spec = input_spec(session)
    assert (spec.name, spec.shape, spec.dtype) == ("input", (None, 3, 16, 16), np.dtype(np.float32))
    inputs = np.random.default_rng(0).standard_normal((2, 3, 16, 16))
    np.testing.assert_array_equal(infer(session, inputs), infer(session, inputs.astype(np.float32)))


class Part:
    """What onnxruntime says of the nodes on one provider."""

    def __init__(self, name: str, *operators: str) -> None:
        self.ep_name, self._operators = name, operators

    def get_nodes(self) -> list[Any]:
        return [SimpleNamespace(op_type=operator) for operator in self._operators]


class Recorded(onnxruntime.InferenceSession):  # type: ignore[misc]  # onnxruntime has no types
    """A session that says it runs where it was asked to, and keeps what it was asked for."""

    asked: ClassVar[dict[str, Any]] = {}
    parts: ClassVar[list[Part]] = []

    def __init__(self, _: str, options: Any, *, providers: list[Any], **flags: Any) -> None:
        entries = ("session.disable_cpu_ep_fallback", "session.record_ep_graph_assignment_info")
        found = {}
        for entry in entries:
            with contextlib.suppress(RuntimeError):  # as where it was never set
                found[entry] = options.get_session_config_entry(entry)
        Recorded.asked = {"entries": found, "providers": providers, "flags": flags, "fallback": True}
        self._names, self._options = [name if isinstance(name, str) else name[0] for name in providers], options
        if self.parts and found.get(entries[0]) == "1" and any(part.ep_name.startswith("CPU") for part in self.parts):
            raise RuntimeError("nodes are assigned to the default CPU EP")

    def get_session_options(self) -> Any:
        return self._options

    def get_provider_graph_assignment_info(self) -> list[Part]:
        return self.parts or [Part(self._names[0], "Conv")]

    def disable_fallback(self) -> None:
        self.asked["fallback"] = False

    def get_providers(self) -> list[str]:
        return self._names


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Recorded)
    return Recorded


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_device_has_no_way_out_to_the_cpu(
    recorded: type[Recorded], dense_file: Path, provider: str, tf32: bool
) -> None:
    create_session(dense_file, provider=provider, tf32=tf32)
    cuda = ("CUDAExecutionProvider", {"use_tf32": "1" if tf32 else "0"})
    assert recorded.asked == {
        "entries": {"session.disable_cpu_ep_fallback": "1", "session.record_ep_graph_assignment_info": "1"},
        "providers": [cuda] if provider == "cuda" else ["TensorrtExecutionProvider", cuda],
        "flags": {"enable_fallback": 0},
        "fallback": False,
    }


def test_a_session_on_the_cpu_records_its_nodes_too(recorded: type[Recorded], dense_file: Path) -> None:
    create_session(dense_file)
    assert recorded.asked["providers"] == ["CPUExecutionProvider"]
    assert recorded.asked["entries"] == {"session.record_ep_graph_assignment_info": "1"}


def test_a_device_that_is_not_the_first_of_the_session_is_refused(
    recorded: type[Recorded], monkeypatch: pytest.MonkeyPatch, dense_file: Path
) -> None:
    both = ["CUDAExecutionProvider", "TensorrtExecutionProvider"]  # as where TensorRT did not load
    monkeypatch.setattr(recorded, "get_providers", lambda _: both)
    with pytest.raises(ConfigError, match=r"asked for TensorrtExecutionProvider, but .* on CUDAExecutionProvider"):
        create_session(dense_file, provider="tensorrt")


def test_a_device_may_leave_the_arithmetic_of_shapes_to_the_cpu(
    recorded: type[Recorded], monkeypatch: pytest.MonkeyPatch, dense_file: Path
) -> None:
    of_sizes = ("Shape", "Squeeze", "Mul", "Reshape", "Concat", "Gather", "Sqrt", "Pow", "Transpose")
    parts = [Part("CUDAExecutionProvider", "Conv", "Expand"), Part("CPUExecutionProvider", *of_sizes)]
    monkeypatch.setattr(recorded, "parts", parts)
    found = provider_assignment(create_session(dense_file, provider="cuda"))
    assert found["CPUExecutionProvider"] == dict.fromkeys(sorted(of_sizes), 1)
    assert recorded.asked["entries"]["session.disable_cpu_ep_fallback"] == "0"
    assert recorded.asked["fallback"] is False


def test_a_device_that_leaves_more_to_the_cpu_is_refused_with_what(
    recorded: type[Recorded], monkeypatch: pytest.MonkeyPatch, dense_file: Path
) -> None:
    parts = [Part("CUDAExecutionProvider", "Conv"), Part("CPUExecutionProvider", "Shape", "Einsum", "Attention")]
    monkeypatch.setattr(recorded, "parts", parts)
    with pytest.raises(ConfigError, match=r"'cuda' cannot run all of .*: Attention, Einsum would run on the CPU"):
        create_session(dense_file, provider="cuda")


def test_tensorrt_without_its_libraries_is_told_as_such(
    recorded: type[Recorded], monkeypatch: pytest.MonkeyPatch, dense_file: Path
) -> None:
    """onnxruntime raises before it looks at the file, with or without a way out."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("RegisterTensorRTPluginsAsCustomOps Please install TensorRT libraries as mentioned in")

    monkeypatch.setattr(recorded, "__init__", refuse)
    with pytest.raises(ConfigError, match=r"'tensorrt' did not load: it takes TensorRT.*LD_LIBRARY_PATH.*doctor"):
        create_session(dense_file, provider="tensorrt")


def test_tensorrt_that_takes_no_node_is_no_tensorrt(
    recorded: type[Recorded], monkeypatch: pytest.MonkeyPatch, dense_file: Path
) -> None:
    monkeypatch.setattr(recorded, "parts", [Part("CUDAExecutionProvider", "Conv")])
    with pytest.raises(ConfigError, match=r"TensorrtExecutionProvider takes no node.*run on CUDAExecutionProvider"):
        create_session(dense_file, provider="tensorrt")
