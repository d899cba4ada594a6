"""The deployed network by itself: an ONNX file, images and ONNX Runtime. Neither torch nor secateur is needed.

    pip install onnxruntime numpy           # or onnxruntime-gpu for --provider cuda
    python examples/04_deploy.py runs/digits/model.onnx images.npy [--labels labels.npy] [--provider cpu] [--batch 32]
        [--divide 16] [--mean 0.5 ...] [--std 0.25 ...] [--wide-sums]

images.npy holds images as cameras and files give them: (N, H, W) grey or (N, H, W, C), of any number format. They are
divided by --divide (255 unless told otherwise), normalised by channel if --mean and --std are given, as they were for
training, and run in batches. Printed is what the file says of itself, how fast it ran, the classes of the first images
and, where labels are given, the share that is right. A provider that is not there is an error, never a run on the CPU.
CUDA leaves to the CPU what computes nothing but sizes, as the file of a vision transformer does for its batch: this is
printed, and anything else there is an error.
Files in 8-bit integers need --wide-sums on x86-64 processors without VNNI, on which their sums overflow otherwise.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
SIZES = {  # operators by which a file computes sizes as it runs; a device takes them for all else
    *("Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Gather", "Max", "Min", "Mod", "Mul", "Pow", "Range"),
    *("ReduceProd", "Reshape", "Shape", "Size", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where"),
}
FORMATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run an exported network on images.")
    parser.add_argument("model", type=Path, help="the ONNX file")
    parser.add_argument("images", type=Path, help="a .npy file, (N, H, W) or (N, H, W, C)")
    parser.add_argument("--labels", type=Path, help="a .npy file, (N,)")
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help="where to run it, and nowhere else")
    parser.add_argument("--batch", type=int, default=32, help="images in a run")
    parser.add_argument("--divide", type=float, default=255.0, help="what a pixel is divided by")
    parser.add_argument("--mean", type=float, nargs="+", default=[0.0], help="subtracted, one number or one a channel")
    parser.add_argument("--std", type=float, nargs="+", default=[1.0], help="divided by, one number or one a channel")
    parser.add_argument("--wide-sums", action="store_true", help="give sums of 8-bit products more room, half as fast")
    options = parser.parse_args()
    if options.batch < 1:
        parser.error("--batch must be at least 1")

    session = opened(options.model, options.provider, wide_sums=options.wide_sums)
    if options.provider != "cpu" and (left := on_cpu(session)):
        print(f"{'on the CPU':<12}{', '.join(f'{name} {count}' for name, count in left.items())}")
    for key, value in session.get_modelmeta().custom_metadata_map.items():
        print(f"{key:<12}{said(value)}")
    images = preprocessed(loaded(options.images), divide=options.divide, mean=options.mean, std=options.std)
    run(session, images[: options.batch], options.batch)  # the first run takes longer
    begun = time.perf_counter()
    outputs = run(session, images, options.batch)
    seconds = time.perf_counter() - begun
    found = outputs.argmax(1)
    print(f"{'images':<12}{len(images)} in {seconds:.3f} s on {session.get_providers()[0]}")
    print(f"{'classes':<12}{' '.join(map(str, found[:10]))}{' ...' if len(found) > 10 else ''}")
    if options.labels is not None:
        labels = loaded(options.labels)
        if labels.shape != found.shape:
            sys.exit(f"error: {len(found)} images need as many labels; {options.labels} holds {labels.shape}")
        print(f"{'top-1':<12}{np.mean(found == labels):.1%} of {len(labels)} images")


def opened(path: Path, provider: str, *, wide_sums: bool) -> onnxruntime.InferenceSession:
    """Return a session on the provider asked for. Without `enable_fallback=0` a device that fails means the CPU."""
    available = onnxruntime.get_available_providers()
    wanted = PROVIDERS[provider]
    if wanted not in available:
        sys.exit(f"error: this onnxruntime has no {wanted}; it has {', '.join(available)}")
    settings = onnxruntime.SessionOptions()
    if provider != "cpu":
        told = hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")  # from 1.24 on
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "0" if told else "1")
        onnxruntime.preload_dlls()  # CUDA and cuDNN as pip installs them
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if wide_sums:
        settings.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=[wanted], enable_fallback=0)
    except Exception as error:  # onnxruntime's errors have no common class of their own
        sys.exit(f"error: {path} does not run on {wanted}: {error}")
    if session.get_providers()[0] != wanted:
        sys.exit(f"error: asked for {wanted}, but {path} would run on {session.get_providers()[0]}")
    if provider != "cpu" and (foreign := sorted(on_cpu(session).keys() - SIZES)):
        sys.exit(f"error: {path} does not run on {wanted}: {', '.join(foreign)} would run on the CPU")
    return session


def on_cpu(session: onnxruntime.InferenceSession) -> Counter[str]:
    """Return how many nodes of which operator the session has left to the CPU; none where it cannot say."""
    parts = getattr(session, "get_provider_graph_assignment_info", list)()
    return Counter(node.op_type for part in parts if part.ep_name == PROVIDERS["cpu"] for node in part.get_nodes())


def loaded(path: Path) -> np.ndarray:
    """Return the array in a .npy file; one that would run code as it is read, a pickle, is refused."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        sys.exit(f"error: {path} cannot be read: {error}")
    if not isinstance(found, np.ndarray):
        sys.exit(f"error: {path} holds several arrays, {', '.join(found)}; save one of them by numpy.save")
    return found


def preprocessed(pixels: np.ndarray, *, divide: float, mean: list[float], std: list[float]) -> np.ndarray:
    """Return images (N, H, W) or (N, H, W, C) as the network wants them: (N, C, H, W), scaled and normalised."""
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or len(pixels) == 0:
        sys.exit(f"error: images must be (N, H, W) or (N, H, W, C), at least one; found {pixels.shape}")
    if not {len(mean), len(std)} <= {1, pixels.shape[3]}:
        sys.exit(f"error: --mean and --std take 1 number or {pixels.shape[3]}, one a channel")
    scaled = (pixels.astype(np.float32) / divide - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)


def run(session: onnxruntime.InferenceSession, images: np.ndarray, batch: int) -> np.ndarray:
    """Return the outputs for all images. The last batch may be smaller: the file takes any number of images."""
    asked, *others = session.get_inputs()
    if others or asked.type not in FORMATS:
        more = f" and {len(others)} more" if others else ""
        sys.exit(f"error: the file must have one input in float32 or float16; found {asked.type}{more}")
    if list(images.shape[1:]) != asked.shape[1:]:
        sys.exit(f"error: the file was exported for images {asked.shape[1:]}; found {list(images.shape[1:])}")
    inputs = images.astype(FORMATS[asked.type])
    try:
        parts = [session.run(None, {asked.name: inputs[at : at + batch]})[0] for at in range(0, len(inputs), batch)]
    except Exception as error:  # onnxruntime's errors have no common class of their own
        sys.exit(f"error: onnxruntime fails on batches of {min(batch, len(inputs))} images: {error}")
    return np.concatenate(parts)


def amount(number: object) -> str:
    """Return a cost with three digits, or as many as it has before the point; what is no number as it is."""
    if not isinstance(number, int | float):
        return str(number)
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def said(value: str) -> str:
    """Return a piece of metadata for people: what is JSON without its brackets."""
    try:
        read = json.loads(value) if value.startswith("{") else value
    except ValueError:
        return value
    if not isinstance(read, dict):
        return value
    return "; ".join(
        f"{key} {', '.join(f'{name} {amount(number)}' for name, number in inner.items())}"
        if isinstance(inner, dict)
        else f"{key} {inner}"
        for key, inner in read.items()
    )


if __name__ == "__main__":
    main()
