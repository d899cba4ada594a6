"""What a network learns from the dense one that it was pruned from: its logits, and the maps at its block ends.

.. [Hinton2015] Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network. arXiv 1503.02531, section 2.
.. [Romero2015] Romero et al.: FitNets: Hints for Thin Deep Nets. ICLR 2015, eq. (3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.distributed import local
from secateur.errors import NetworkError
from secateur.modes import device_of, dtype_of, evaluating, own_copy
from secateur.records import PruningPlan
from secateur.training.block_ends import block_ends, captured


def logit_loss(logits: Tensor, wanted: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Return how far the network's answers are from the teacher's, averaged over the images.

    Formula: T^2 * KL(softmax(wanted / T) || softmax(logits / T)), [Hinton2015]_; T^2 keeps the size of the gradients
    when the temperature changes.

    Args:
        logits: (N, classes), of the network.
        wanted: (N, classes), of the teacher.
        temperature: T.

    Example:
        >>> logit_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 0.0]])).item()
        0.0
    """
    own, others = (functional.log_softmax(z / temperature, 1) for z in (logits, wanted))
    return temperature**2 * functional.kl_div(own, others, reduction="batchmean", log_target=True)


def feature_loss(maps: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
    """Return the squared distance of feature maps from the teacher's, relative to these, averaged over the places.

    Formula: mean over places of |S - T|^2 / (|T|^2 + eps), the norms over the batch.

    Args:
        maps: place -> (N, C, H, W), of the network.
        wanted: place -> (N, C, H, W), of the teacher; the same places, on any device.

    Example:
        >>> ones = torch.ones(2, 1, 2, 2)
        >>> feature_loss({"block": 2 * ones}, {"block": ones}).item()
        1.0

    Deviations: [Romero2015]_ learns a layer that widens the network's maps; here channels stay what they were.
    """
    shares = []
    for place, target in wanted.items():
        target = target.to(maps[place].device, torch.float32)
        energy = target.square().sum() + torch.finfo(torch.float32).tiny
        shares.append((maps[place].float() - target).square().sum() / energy)
    return torch.stack(shares).mean()


@contextmanager
def distilling(
    model: nn.Module,
    teacher: nn.Module,
    inputs: Tensor,
    *,
    weight: float = 0.5,
    temperature: float = 4.0,
    feature_weight: float = 0.0,
    plan: PruningPlan | None = None,
) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
    """Yield the loss by the teacher for the block: a function of a batch's inputs and of the model's logits.

    Formula: weight * `logit_loss` + feature_weight * `feature_loss`, to be added to (1 - weight) times the loss by the
    labels.

    Args:
        model: the network that learns; its logits must come from its latest forward pass.
        teacher: the dense network; runs in eval mode, without gradients, where it lies, and is left as it was. If its
            weights are of another floating-point type than the model's, it is given the images in its own.
        inputs: (N, C, H, W), some images to try both networks with.
        weight: of the logits.
        temperature: see `logit_loss`.
        feature_weight: of the maps at the block ends, see `block_ends`; 0 reads none.
        plan: what was removed from the teacher: channels of a residual stream that went are taken out of its maps.

    Raises:
        NetworkError: the teacher gives other classes; with feature maps, no module of it ends a residual block, or the
            model lacks such a module, or its map has another shape.

    Cost: a forward pass of the teacher for each batch; with feature maps the memory of those at the block ends.

    Example:
        >>> net, dense, images = nn.Linear(3, 2), nn.Linear(3, 2), torch.rand(4, 3)
        >>> with distilling(net, dense, images, weight=1.0) as lesson:
        ...     loss = lesson(images, net(images))
        >>> loss.requires_grad, loss.item() > 0
        (True, True)

    Deviations: the share of the labels' loss and the relative distance of feature maps are ours.
    """
    teacher = local(teacher)

    def readable(images: Tensor) -> Tensor:
        apart = images.is_floating_point() and dtype_of(teacher) != dtype_of(model)
        return images.to(device_of(teacher), dtype_of(teacher) if apart else images.dtype, copy=True)

    channels = _channels(teacher, readable(inputs[:2]), plan) if feature_weight else {}
    with ExitStack() as stack:
        own = stack.enter_context(captured(model, dict.fromkeys(channels)))
        wanted = stack.enter_context(captured(teacher, channels))

        def ask(images: Tensor) -> Tensor:
            with evaluating(teacher), torch.no_grad():
                logits: Tensor = teacher(readable(images))
            return logits

        def lesson(images: Tensor, logits: Tensor) -> Tensor:
            answers = ask(images).to(logits.device, logits.dtype)
            loss = weight * logit_loss(logits, answers, temperature=temperature)
            if channels:
                loss = loss + feature_weight * feature_loss(own, wanted)
            return loss

        few = inputs[:2]
        with evaluating(model), torch.no_grad():
            answers, expected = model(own_copy(model, few)), ask(few)
        if answers.shape != expected.shape:
            raise NetworkError(
                f"the teacher answers {tuple(few.shape)} with {tuple(expected.shape)}, the network with "
                f"{tuple(answers.shape)}: both must tell the same classes apart"
            )
        for place, maps in wanted.items():
            if own[place].shape != maps.shape:
                raise NetworkError(
                    f"the feature map of {place!r} is {tuple(own[place].shape)} in the network and {tuple(maps.shape)} "
                    "in the teacher: give the plan that the network was pruned by"
                )
        yield lesson


def _channels(teacher: nn.Module, inputs: Tensor, plan: PruningPlan | None) -> dict[str, Tensor | None]:
    """Return the modules to compare at -> the channels of the teacher's map that the pruned network still has."""
    ends = block_ends(teacher, inputs)
    if not ends:
        raise NetworkError(
            "no module of the teacher ends a residual block, where feature maps could be compared: set feature_weight "
            "to 0"
        )
    if plan is None:
        return dict.fromkeys(ends)
    kept = {
        member.layer: torch.tensor(member.positions(plan[group.name]))
        for group in plan.groups
        for member in group.members
        if member.role == "producer"
    }
    return {end: kept.get(layer) for end, layer in ends.items()}
