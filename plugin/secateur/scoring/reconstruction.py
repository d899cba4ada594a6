"""Score the channels of a network by how well the layers that read them can do without: one pass, on the dense network.

The mathematics is in `secateur.criteria.reconstruction`, the readers are in `secateur.scoring.readers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.batches import Batches
from secateur.criteria import Reconstruction, options_of
from secateur.criteria.adapting import Reader
from secateur.distributed import Across, jointly
from secateur.errors import NetworkError
from secateur.fingerprints import structure_of
from secateur.modes import unwrapped
from secateur.records import ChannelGroup, Member, Reduction, ScoreTable, rounded
from secateur.regression import FewRows, layout_of, readings_of, row_readings_of, warn_of_few_rows
from secateur.scoring.holding import held, joint_equations, variations
from secateur.scoring.readers import bytes_for, consumers, few_rows, is_uneven, readers_of

STREAM_ROWS = 8192  # from which the variance of what a reader's output is added to is told
DIGITS = 8  # of a score: in so many an error agrees, in whichever order the threads add it up
LEAST_BY_ROWS = 1e-4  # the ridge below which rows lose digits that their products keep
RANKING = 4  # how many times the memory of a group's equations it takes to rank its channels


def reconstruction_scores(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    batches: Batches,
    *,
    samples: int = 1000,
    rows: int = 80_000,
    ridge: float = 1e-2,
    labels: float = 0.0,
    memory: int = 2**31,
    relative: bool = True,
    order: ScoreTable | None = None,
    reduction: Reduction = "sum",
    across: Across = None,
) -> ScoreTable:
    """Return for each channel the error of its readers once it, and all that are worth less, are gone.

    Formula: `secateur.criteria.Reconstruction`, per row: a pixel of the reader's output, an image for a linear layer.
    Errors are shares of the variance of what that output is added to, or in units of squared output; those of several
    readers are summed. Sorted, a group's scores are its error curve: what pruning to each width costs at least, when no
    weights but the readers' adapt. With `order`, channels go in the order of another criterion's scores, and what is
    returned is that criterion's error curve: the same ranking, but for channels whose errors agree in eight digits, in
    a unit that can be compared across groups.

    Args:
        model: the network; left as it is.
        groups: what `channel_groups` found.
        batches: yields inputs (N, ...) or `(inputs, labels)`; labels are read where `labels` asks for them.
        samples: how many images to use at most; they are held in memory.
        rows: output positions of each reader that are read, drawn at random from all images.
        ridge: r, as a share of the mean of the diagonal of U'U.
        labels: how much the images' classes weigh beside the outputs; 0: not at all.
        memory: bytes for the held images, the equations and ranking, beside the forward pass.
        relative: whether errors are shares of the variance of what the reader's output is added to, so that those of
            several groups can be compared.
        order: scores of another criterion, larger = keep, by which the channels go; None: the one that costs least.
            Groups that it does not score are skipped.
        reduction: how `order` combines where several layers produce a group's channels.
        across: the processes that share the images, see `collect_scores`: each holds at most its equal part of
            `samples` and draws its part of `rows`, and all get the same scores, those of one process up to the rows
            that are drawn; None for this process alone.

    Returns:
        The scores, under the name of each group: the layer that produces its channels, (C,), in eight significant
        digits, so that they do not depend on the number of threads (but where a score lies within 1e-13 of the middle
        between two such numbers, once in thousands). The settings are
        criterion, options, samples (images really read), rows (reader -> how many), structure, skipped: group -> why it
        has no scores, order (the settings of `order`), and unread: layer -> why its error does not count.

    Raises:
        ConfigError: an argument out of range.
        DataError: no images, more than fit into half of the memory, values that are NaN or infinite (the layer is
            named), labels that are missing but asked for, or rows that are all of one class.
        NetworkError: no group can be scored; a compiled or scripted network.
        ProcessError: another process failed, ended, or has other weights or settings; see `secateur.distributed`.

    Warns:
        SecateurWarning: a reader has fewer rows than unknowns.

    Cost: a forward pass for every `memory` bytes that the equations of all readers fill, at 8 D (D + O) for a reader of
    D inputs and O outputs; n D (D + O) + D^3 operations each, for n rows, and with `order` a fourth of them. A reader
    with at most a fourth as many rows as inputs, such as a linear layer behind a flatten, fills 16 n (D + O) and takes
    n^2 D operations with `order`, n D^2 without. Ranking a group's channels takes `RANKING` times the memory of its
    readers' equations beside them.

    Example:
        >>> from secateur import channel_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 1, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.eye(3)[:, :, None, None])
        >>> _ = net[1].weight.data.copy_(torch.tensor([1.0, 3.0, 2.0]).view(1, 3, 1, 1))
        >>> images = torch.eye(3)[:, :, None, None]  # of one pixel, each of another colour
        >>> scores = reconstruction_scores(net, channel_groups(net, images), [images], ridge=1e-9, relative=False)
        >>> [round(3 * score) for score in scores["0"].tolist()]  # squares of the weights, added up
        [1, 14, 5]
    """
    rule = Reconstruction(samples=samples, rows=rows, ridge=ridge, labels=labels, memory=memory, relative=relative)
    network = unwrapped(model)
    images = held(network, batches, rule, across)
    targets, unread = readers_of(network, groups, images.example)
    safe = targets if ridge >= LEAST_BY_ROWS else ()
    few = few_rows(network, safe, images.example, images=images.total, rows=rows)
    sizes = {name: bytes_for(network.get_submodule(name), images.width, rows=few.get(name)) for name in targets}
    room = memory - images.nbytes
    todo, skipped = _to_score(network, groups, unread, sizes, room)
    going = {name: None if order is None else _order_of(groups[name], order, reduction) for name in todo}
    for name in [name for name, channels in going.items() if channels == []]:
        skipped[name] = "the scores to order its channels by are missing"
        del todo[name]
    unit = variations(network, targets, images, min(rows, STREAM_ROWS)) if relative else {}
    found: dict[str, Tensor] = {}
    counted: dict[str, int] = {}
    for chunk in _chunks(todo, sizes, room):
        layers = dict.fromkeys(member.layer for name in chunk for member in todo[name])
        equations = joint_equations(network, layers, images, rows, few=few)
        counted |= {layer: of.rows for layer, of in equations.items()}
        for name in chunk:
            readings: list[Reader] = []
            for member in todo[name]:
                module, target = network.get_submodule(member.layer), targets[member.layer]
                known, one = equations[member.layer], unit.get(member.layer, 1.0)
                if isinstance(known, FewRows):
                    readings += row_readings_of(known, module, target, member, labels=labels, unit=one)
                else:
                    readings += readings_of(known, module, target, member, labels=labels, unit=one)
            found[name] = _by_position(groups[name], rounded(rule(readings, order=going[name]), DIGITS))
    if not found:
        raise NetworkError("no group can be scored: " + "; ".join(f"{name}: {why}" for name, why in skipped.items()))
    found = jointly(lambda: found, across, what=f"scores by {rule.name!r}")[0]
    warn_of_few_rows({name: (n, layout_of(network.get_submodule(name)).unknowns) for name, n in counted.items()})
    settings = {
        "criterion": rule.name,
        "options": options_of(rule),
        "samples": images.total,
        "rows": counted,
        "skipped": skipped,
        "unread": unread,
        "structure": structure_of(network),
    }
    if order is not None:
        settings["order"] = dict(order.settings) | {"reduction": reduction}
    return ScoreTable({name: found[name] for name in groups if name in found}, settings=settings)


def _to_score(
    network: nn.Module,
    groups: Mapping[str, ChannelGroup],
    unread: Mapping[str, str],
    sizes: Mapping[str, int],
    room: int,
) -> tuple[dict[str, list[Member]], dict[str, str]]:
    """Return the readers of each group that can be scored, and why others cannot."""
    todo: dict[str, list[Member]] = {}
    skipped: dict[str, str] = {}
    for name, group in groups.items():
        readers = [member for member in consumers(group) if member.layer in sizes]
        need = (1 + RANKING) * _total(readers, sizes)
        uneven = [m.layer for m in readers if is_uneven(network.get_submodule(m.layer), m)]
        if not readers:
            reasons = [f"{member.layer}: {unread[member.layer]}" for member in consumers(group)]
            skipped[name] = f"no layer that reads it can be solved for ({'; '.join(reasons) or 'none reads it'})"
        elif uneven:
            skipped[name] = f"its channels own different numbers of the inputs of {uneven[0]}, and cannot be compared"
        elif need > room:
            largest = max(readers, key=lambda member: sizes[member.layer]).layer
            skipped[name] = (
                f"ranking its channels by what {largest} reads needs {need / 2**20:,.0f} MiB, of "
                f"{max(0, room) / 2**20:,.0f} left beside the images: allow more memory, or score it by another "
                "criterion"
            )
        else:
            todo[name] = readers
    return todo, skipped


def _order_of(group: ChannelGroup, order: ScoreTable, reduction: Reduction) -> list[int]:
    """Return the channels of a group in the order in which they go by the scores of another criterion; [] without."""
    if not any(member.layer in order for member in group.producers):
        return []
    return [int(channel) for channel in group.combine(order, reduction=reduction).argsort(stable=True)]


def _total(readers: Sequence[Member], sizes: Mapping[str, int]) -> int:
    return sum(sizes[layer] for layer in {member.layer for member in readers})


def _chunks(todo: Mapping[str, list[Member]], sizes: Mapping[str, int], room: int) -> Iterator[list[str]]:
    """Yield the groups in order, as many at a time as have their readers' equations fit beside the ranking of one."""
    chunk: list[str] = []
    readers: list[Member] = []
    ranking = 0
    for name, own in todo.items():
        largest = max(ranking, RANKING * _total(own, sizes))
        if chunk and _total(readers + own, sizes) + largest > room:
            yield chunk
            chunk, readers, largest = [], [], RANKING * _total(own, sizes)
        chunk.append(name)
        readers, ranking = readers + own, largest
    if chunk:
        yield chunk


def _by_position(group: ChannelGroup, scores: Tensor) -> Tensor:
    """Return the scores of a group's channels as those of the outputs of the layer that it is named after."""
    own = next(member for member in group.producers if member.layer == group.name)
    found = torch.zeros(1 + max(position for owned in own.indices for position in owned), dtype=torch.float64)
    for score, owned in zip(scores, own.indices, strict=True):
        found[list(owned)] = score
    return found
