"""The reconstruction criterion by loops: over given rows, and over the layers of a network that runs on `IMAGES`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

IMAGES = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
Rows = list[list[list[float]]]  # block, row, number


def seen(network: nn.Module, layer: str) -> list[tuple[Tensor, Tensor]]:
    """Return each input and output of a layer, on all images at once."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = network.get_submodule(layer).register_forward_hook(
        lambda _, args, named, output: calls.append((next(iter((*args, *named.values()))).clone(), output.clone())),
        with_kwargs=True,
    )
    with torch.no_grad():
        network.eval()(IMAGES)
    handle.remove()
    return calls


def naive_rows(module: nn.Module, x: Tensor, y: Tensor) -> tuple[Rows, Rows, list[int]]:
    """Return for each block the numbers under the kernel and the outputs at every position, and the image of each."""
    if isinstance(module, nn.Linear):
        return [x.tolist()], [y.tolist()], list(range(len(x)))
    assert isinstance(module, nn.Conv2d)
    inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
    U: Rows = [[] for _ in range(module.groups)]
    T: Rows = [[] for _ in range(module.groups)]
    owners = []
    for image in range(len(y)):
        for row in range(y.shape[2]):
            for column in range(y.shape[3]):
                owners.append(image)
                for block in range(module.groups):
                    U[block].append(
                        [
                            pixel(x[image, block * inputs + c], module, row, column, a, b)
                            for c in range(inputs)
                            for a in range(module.kernel_size[0])
                            for b in range(module.kernel_size[1])
                        ]
                    )
                    T[block].append([float(y[image, block * outputs + o, row, column]) for o in range(outputs)])
    return U, T, owners


def pixel(plane: Tensor, module: nn.Conv2d, row: int, column: int, a: int, b: int) -> float:
    i = row * module.stride[0] + a * module.dilation[0] - int(module.padding[0])
    j = column * module.stride[1] + b * module.dilation[1] - int(module.padding[1])
    inside = 0 <= i < plane.shape[0] and 0 <= j < plane.shape[1]
    return float(plane[i, j]) if inside else 0.0


class NaiveReader:
    """One block: rows U (n, D), targets T (n, O), and which columns each channel owns."""

    def __init__(self, U: Tensor, T: Tensor, owned: list[list[int]]) -> None:
        self.U, self.T, self.owned = U, T, owned

    def error_without(self, gone: set[int], ridge: float) -> float:
        dropped = {d for c in gone for d in self.owned[c]}
        left = [d for d in range(self.U.shape[1]) if d not in dropped]
        r = ridge * float(self.U.square().sum()) / self.U.shape[1]
        u = self.U[:, left]
        W = torch.linalg.solve(u.T @ u + r * torch.eye(len(left), dtype=u.dtype), u.T @ self.T)
        return float((u @ W - self.T).square().sum() + r * W.square().sum()) / len(self.U)


def naive_readers(
    network: nn.Module,
    layer: str,
    positions: Sequence[Sequence[int]],
    *,
    norm: nn.BatchNorm2d | None = None,
    intercept: bool = True,
    labels: float = 0.0,
) -> Iterator[NaiveReader]:
    """Yield the blocks of a layer as readers of the channels at these `positions` of its inputs."""
    module = network.get_submodule(layer)
    kernel = module.weight[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
    calls = [naive_rows(module, x, y) for x, y in seen(network, layer)]
    for block in range(len(calls[0][0])):
        U = torch.tensor([row for rows, _, _ in calls for row in rows[block]]).double()
        T = torch.tensor([row for _, targets, _ in calls for row in targets[block]]).double()
        if norm is not None:
            T = T * (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double()
        Y = nn.functional.one_hot(LABELS[[owner for _, _, owners in calls for owner in owners]]).double()
        Y = Y - Y.mean(0)
        variation = (T - T.mean(0)).square().sum()
        if intercept:
            U, T = U - U.mean(0), T - T.mean(0)
        if labels:
            T = torch.cat([T, Y * (labels * variation / Y.square().sum()).sqrt()], 1)
        first, inputs = block * U.shape[1] // kernel, U.shape[1] // kernel
        owned = [
            [(p - first) * kernel + k for p in own if first <= p < first + inputs for k in range(kernel)]
            for own in positions
        ]
        yield NaiveReader(U, T, owned)


def naive_scores(readers: Sequence[NaiveReader], ridge: float = 1e-2) -> list[float]:
    """Remove the channel that costs least, solving everything again for each that is left."""
    width = len(readers[0].owned)
    scores, gone = [0.0] * width, set[int]()
    while len(gone) < width:
        errors = {c: sum(r.error_without(gone | {c}, ridge) for r in readers) for c in range(width) if c not in gone}
        best = min(errors, key=errors.__getitem__)
        scores[best] = errors[best]
        gone.add(best)
    return scores


def naive_error(U: Tensor, T: Tensor, columns: list[int], r: float) -> float:
    """min over W of |U W - T|^2 + r |W|^2, with W zero outside of `columns`: solved, then summed number by number."""
    u = U[:, columns]
    W = torch.linalg.solve(u.T @ u + r * torch.eye(len(columns), dtype=U.dtype), u.T @ T)
    error = 0.0
    for row, target in zip(u, T, strict=True):
        for o in range(T.shape[1]):
            guess = sum(float(row[d]) * float(W[d, o]) for d in range(len(columns)))
            error += (guess - float(target[o])) ** 2
    return error + r * sum(float(w) ** 2 for w in W.flatten())


def naive_elimination(
    readers: Sequence[tuple[Tensor, Tensor, Sequence[Sequence[int]]]], ridge: float
) -> tuple[list[int], list[float]]:
    """Solve every regression without every channel that is left, and let the cheapest go."""
    alive = list(range(len(readers[0][2])))
    order, errors = [], []
    while alive:
        totals = []
        for candidate in alive:
            total = 0.0
            for U, T, owned in readers:
                gone = {d for c, columns in enumerate(owned) if c not in alive or c == candidate for d in columns}
                left = [d for d in range(U.shape[1]) if d not in gone]
                r = ridge * sum(float(x) ** 2 for x in U.flatten()) / U.shape[1]
                total += naive_error(U, T, left, r)
            totals.append(total)
        best = min(range(len(alive)), key=totals.__getitem__)
        order.append(alive.pop(best))
        errors.append(totals[best])
    return order, errors
