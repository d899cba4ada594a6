"""Several processes, each with its own share of the images, find one result together.

Nothing is shared unless it is asked for: functions that can share take `across`, a process group of torch.distributed,
and None means this process alone. Each process first does its part by itself; then all exchange, in one go, what they
found or how they failed. Every process of the group must make the same calls in the same order.

Nobody waits for ever:

* A part that raises an exception is exchanged as well. That process raises its own error, the others a ProcessError
  that names it, as soon as they have done their own parts. All of them are still in step, and may go on.
* Processes that hold other weights, or were asked for something else, are told so by a ProcessError on all of them.
* A process that has ended, or does not come, is missed by a ProcessError on the others: with gloo at once when it ends,
  else after the group's timeout (`init_process_group(timeout=...)`). The others should end then as well, which
  torchrun sees to.

Before a process ends, let go of all that was given the group (a `MaskedAccuracy`, a variable that holds
`torch.distributed.group.WORLD`) and call `destroy_process_group`. Gloo's threads live as long as anything holds the
group, and a process that ends while they do is aborted now and then ("terminate called without an active exception").
Doing the work in a function is enough, as examples/03_score_on_several_processes.py does.

What is exchanged travels by pickle between processes of one run, through the processor's memory. Groups of the backend
nccl send it through the current device: call `torch.cuda.set_device` first, or give a group of the backend gloo.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import torch.distributed as dist
from torch import Tensor, nn

from secateur.errors import ConfigError, DataError, ProcessError
from secateur.fingerprints import structure_of, weights_hash

T = TypeVar("T")
if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    Across: TypeAlias = ProcessGroup | None
else:  # torch may have been built without process groups
    Across = dist.ProcessGroup | None if dist.is_available() else None
"""The processes that find something together; None for this one alone."""


def jointly(
    work: Callable[[], T],
    across: Across,
    *,
    what: str,
    network: nn.Module | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[T]:
    """Do this process's part; return what the part of each process gave, by rank.

    Args:
        work: does the part. What it returns must survive pickle where there are several processes.
        across: the processes; None for this one alone.
        what: what is found together, as errors should call it; the same on all processes.
        network: must have the same structure and weights on all processes.
        settings: must be equal on all processes.

    Raises:
        ConfigError: `across` is no process group that this process belongs to.
        ProcessError: the part of another process failed, it found something else, with another network or by other
            settings, or it does not answer.

    Any error of `work` is passed on, after the others have been told.

    Cost: one exchange, and with `network` a hash of its weights, about a second a gigabyte.

    Example:
        >>> jointly(lambda: 3, None, what="a sum")
        [3]
    """
    if across is None:
        return [work()]
    place_in(across)
    facts: dict[str, Any] = {"what": what}
    failure: Exception | None = None
    try:
        facts |= dict(settings or {})
        if network is not None:
            facts |= {"structure of the network": structure_of(network), "weights": weights_hash(network)}
        sent = pickle.dumps((facts, None, work()))
    except Exception as error:
        failure = error
        sent = pickle.dumps(({"what": what}, f"{type(error).__name__}: {error}", None))
    received = _exchange(sent, across, what)
    if failure is not None:
        raise failure
    outcomes = [pickle.loads(part) for part in received]  # noqa: S301  # sent by a process of this very run
    failed = [f"process {rank} failed: {error}" for rank, (_, error, _) in enumerate(outcomes) if error is not None]
    if failed:
        raise ProcessError(f"{what}: {'; '.join(failed)}")
    _require_alike(what, [facts for facts, _, _ in outcomes])
    return [found for _, _, found in outcomes]


def add_up(tensor: Tensor, across: Across, *, what: str) -> None:
    """Give all processes the sum of their tensors, in place; each must have one of the same shape and type.

    Unlike `jointly`, nothing tells the others of a process that fails before: it is missed as one that has ended.

    Args:
        tensor: of this process.
        across: the processes; None for this one alone, and the tensor stays as it is.
        what: what is found together, as errors should call it.

    Raises:
        ProcessError: another process has ended or does not come.

    Example:
        >>> import torch
        >>> one = torch.ones(2)
        >>> add_up(one, None, what="a sum")
        >>> one
        tensor([1., 1.])
    """
    if across is None:
        return
    try:
        dist.all_reduce(tensor, group=across)
    except RuntimeError as error:
        raise _missed(what, error) from error


def place_in(across: ProcessGroup) -> tuple[int, int]:
    """Return the rank of this process in a group, and how many processes it has.

    Raises:
        ConfigError: it is no process group, or one that this process does not belong to.

    Example:
        >>> place_in("everyone")
        Traceback (most recent call last):
        ...
        secateur.errors.ConfigError: across must be a process group of torch.distributed that this process belongs to, \
or None for this process alone; found 'everyone'
    """
    if not (dist.is_available() and isinstance(across, dist.ProcessGroup)):
        raise ConfigError(
            "across must be a process group of torch.distributed that this process belongs to, or None for this "
            f"process alone; found {across!r}"
        )
    return across.rank(), across.size()


def part_of(samples: int, across: Across, *, batch_size: int | None = None) -> int:
    """Return how many of `samples` images this process is to read: equal parts, in whole batches.

    The first processes read one batch (without a batch size, one image) more where there is a rest; fewer images than
    fill one batch are read by the first process.

    Example:
        >>> part_of(1280, None, batch_size=128)
        1280
    """
    if across is None:
        return samples
    rank, size = place_in(across)
    unit = max(1, min(batch_size or 1, samples))
    units = samples // unit
    return unit * (units // size + int(rank < units % size))


class Share(NamedTuple):
    """What one process has read: how many images, how many in the largest batch, and their shape.

    Example:
        >>> import torch
        >>> Share().with_batch(torch.zeros(4, 3, 8, 8)).with_batch(torch.zeros(2, 3, 8, 8))
        Share(images=6, largest=4, shape=(3, 8, 8))
    """

    images: int = 0
    largest: int = 0
    shape: tuple[int, ...] = ()

    def with_batch(self, inputs: Tensor) -> Share:
        """Return the share with one more batch (N, ...)."""
        return Share(self.images + len(inputs), max(self.largest, len(inputs)), tuple(inputs.shape[1:]))


def sum_of(shares: list[Share], *, fixed: bool) -> tuple[int, int]:
    """Return how many images have been read in all, and how many in the largest batch.

    Args:
        shares: of all processes, by rank.
        fixed: whether batches must be of one size, since what is found is defined on them.

    Raises:
        DataError: no image has been read, or shares do not go together.

    Example:
        >>> sum_of([Share(40, 8, (3, 8, 8)), Share(), Share(16, 8, (3, 8, 8))], fixed=True)
        (56, 8)
    """
    read = {rank: share for rank, share in enumerate(shares) if share.images}
    if not read:
        raise DataError("there is no image to read: the batches are empty")
    if len({share.shape for share in read.values()}) > 1:
        shapes = ", ".join(f"{share.shape} in process {rank}" for rank, share in read.items())
        raise DataError(f"the inputs differ in size: {shapes}")
    if fixed and len({share.largest for share in read.values()}) > 1:
        sizes = ", ".join(f"{share.largest} in process {rank}" for rank, share in read.items())
        raise DataError(
            f"what is asked for is defined on batches of one size, but they hold {sizes} images: give each process "
            "a whole batch at least, or none"
        )
    return sum(share.images for share in read.values()), max(share.largest for share in read.values())


def local(model: nn.Module) -> nn.Module:
    """Return the network inside DistributedDataParallel, whose forward pass would wait for the other processes'.

    Example:
        >>> network = nn.Linear(2, 2)
        >>> local(network) is network
        True
    """
    if not (dist.is_available() and isinstance(model, nn.parallel.DistributedDataParallel)):
        return model
    inside: nn.Module = model.module
    return inside


def _exchange(sent: bytes, across: ProcessGroup, what: str) -> list[bytes]:
    """Return what each process of the group has sent."""
    received: list[Any] = [None] * across.size()
    try:
        dist.all_gather_object(received, sent, group=across)
    except RuntimeError as error:
        raise _missed(what, error) from error
    return received


def _missed(what: str, error: RuntimeError) -> ProcessError:
    reason = str(error).partition("\n")[0]
    return ProcessError(
        f"{what}: another process has ended, or is later than the timeout of the process group allows, or the group's "
        f"backend cannot send this ({reason})"
    )


def _require_alike(what: str, facts: list[dict[str, Any]]) -> None:
    for rank, other in enumerate(facts):
        different = [key for key in facts[0] | other if facts[0].get(key) != other.get(key)]
        if "what" in different:
            raise ProcessError(f"process 0 wants {facts[0]['what']}, process {rank} wants {other['what']}")
        if different:
            raise ProcessError(
                f"{what}: process {rank} differs from process 0 in: {', '.join(different)}; all processes must hold "
                "the same network and ask for the same"
            )
