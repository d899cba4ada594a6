"""What the candidates of a search are worth, with what they have in common computed once, and losers stopped early."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from secateur.batches import Batches, rebatch
from secateur.channel_graph.surgery import check_groups
from secateur.counts import check_counts
from secateur.errors import DataError, NetworkError
from secateur.evaluation.arithmetic import fastest_format, fold, foldable
from secateur.evaluation.exactness import Referee, computes_coarsely, norms_by_batch, told_to_round, undecided
from secateur.evaluation.expectations import Expectations
from secateur.evaluation.field import Field
from secateur.evaluation.forks import Forks
from secateur.evaluation.penalties import (
    Measure,
    check_measure,
    penalties,
    wanted_outputs,
    worth_of,
)
from secateur.evaluation.racing import Settle, race
from secateur.evaluation.recoveries import Recovery, mend_by
from secateur.evaluation.stage import shared_channels
from secateur.modes import device_of, own_copy, reading, unwrapped
from secateur.protocols import Kept, Worth
from secateur.records import ChannelGroup

CHUNK = {"cpu": 32, "cuda": 256}  # images that are run at a time: a processor's cache holds their feature maps
STEPS = 32  # a candidate that is better than expected is looked at so often, at most
MANY = 8  # candidates for which it pays to look first at what they share
Known = Mapping[int, Worth]


class CandidateWorth:
    """The worth of a candidate of a search, alone or in a race with others (`secateur.protocols.Race`).

    Without recovery, by accuracy, every worth is that of `MaskedAccuracy`, and so every decision; the arithmetic is
    another:

    * channels that no candidate of a race keeps are cut; the candidates are masks on what is left;
    * what runs before the first layer that a candidate changes is computed once for all of them;
    * a candidate is stopped once it has lost more than the best of the race in all; the images come first on which it
      should lose most, by earlier races, so that this is soon;
    * images whose outcome lies within rounding are judged literally, for the candidates that may win;
    * all images are, in the batches that were given, where a network computes in half precision (in an autocast block
      too), or normalises by the statistics of the batch. Nothing is saved then.

    Other measures, and recoveries, carry the rounding of the cut network's arithmetic: in half precision, of that.

    Args:
        model: the dense network, giving logits (N, K); copied, never touched.
        groups: its channel groups by name.
        batches: yields `(inputs, labels)`, or inputs alone for "fidelity"; held in memory, on the device of the model.
        measure: "accuracy"; "loss", minus the mean cross-entropy; or "fidelity", minus the mean Kullback-Leibler
            divergence from the dense network's answers, which needs no labels.
        recovery: "none"; "recalibrate": the batch statistics of each candidate are measured anew
            (`secateur.recalibrate_batch_norm`); or "compensate": the layers that read a group have the best weights for
            the channels that stay, by their equations in the dense network.
        calibration: images for the recovery: training images, labels are not read.
        samples, rows, ridge: of the recovery; see `secateur.compensate`. All batches hold as many images as the first
            for "recalibrate".
        memory: bytes for what is computed once; and for the images and equations of a recovery.
        chunk: images run at a time; None for as many as a processor's cache holds of usual networks, more on a GPU.

    Attributes:
        settings: what is measured, as plain data.

    Raises:
        ConfigError: unknown measure or recovery, a count below 1, or calibration images that are missing or in vain.
        DataError: no images, images of several sizes, labels that do not fit, or outputs that are NaN.
        NetworkError: a compiled or scripted network; groups of another network; or batch norm without running
            statistics, for anything but accuracy without recovery: what an image is worth would hang on the images that
            are run with it.

    Cost: a race of L candidates: at most L + 1 forward passes over the images, as a rule less than a fifth of it. This
    process judges all images; `MaskedAccuracy` can share them out over several.

    Example:
        >>> from secateur.records import Member
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> for layer in net:
        ...     _ = nn.init.eye_(layer.weight)
        >>> own = ((0,), (1,))
        >>> group = ChannelGroup("0", 2, (Member("0", "producer", own), Member("1", "consumer", own)))
        >>> worth = CandidateWorth(net, {"0": group}, [(torch.eye(2), torch.tensor([0, 1]))])
        >>> worth({}), worth.race([{"0": (0,)}, {}])
        (1.0, [Worth(value=0.5, exact=True), Worth(value=1.0, exact=True)])
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, ChannelGroup],
        batches: Batches,
        *,
        measure: Measure = "accuracy",
        recovery: Recovery = "none",
        calibration: Batches | None = None,
        samples: int = 1000,
        rows: int = 80_000,
        ridge: float = 1e-2,
        memory: int = 2**30,
        chunk: int | None = None,
    ) -> None:
        check_measure(measure)
        check_counts(samples=samples, rows=rows, memory=memory, chunk=1 if chunk is None else chunk)
        exact = measure == "accuracy" and recovery == "none"
        by_batch = norms_by_batch(unwrapped(model))
        if by_batch and not exact:
            raise NetworkError(
                f"the batch norm {by_batch[0]!r} keeps no running statistics, so the outputs depend on the batch; such "
                'networks are judged by "accuracy" with recovery "none" alone, here or by MaskedAccuracy'
            )
        self._device = device_of(model)
        self._model = copy.deepcopy(unwrapped(model)).eval()
        self._groups, self._measure = dict(groups), measure
        check_groups(self._model, self._groups)
        images, self._wanted, safety = self._read(batches)
        self._images = torch.cat(images)
        self._expected = Expectations(measure, safety)
        self._here: Kept = {}  # the network that the next race should start from
        self._forks = Forks(self._model, self._images[torch.arange(3) % len(self._images)])
        self._format = fastest_format(self._model, self._images[:2])
        self._mend, count = mend_by(
            recovery,
            self._model,
            self._groups,
            self._forks,
            calibration,
            samples=samples,
            rows=rows,
            ridge=ridge,
            memory=memory,
        )
        masked = [m.layer for group in self._groups.values() for m in group.members if m.role == "masked"]
        self._folds = foldable(self._model, self._images[:2], but=masked) if recovery == "none" else []
        self._referee = Referee(self._model, self._groups, images, self._wanted) if exact else None
        self._all_literally = bool(by_batch) or computes_coarsely(self._model, self._images[:2])
        self._chunk = CHUNK.get(self._device.type, 32) if chunk is None else chunk
        self._at_once = self._how_many(memory)
        self.settings: Mapping[str, Any] = MappingProxyType(
            {"measure": measure, "recovery": recovery, "images": len(self._images)}
            | ({"calibration_images": count} if count else {})
            | ({"rows": rows, "ridge": ridge} if recovery == "compensate" else {})
        )

    def __call__(self, kept: Kept) -> float:
        """Return the worth with only the channels `kept[g]` of group g, and all of absent groups.

        Raises:
            PlanError: an unknown group or channels that it does not have.
            DataError: the outputs are NaN.
        """
        return self.race([kept])[0].value

    def race(
        self,
        candidates: Sequence[Kept],
        *,
        known: Known = MappingProxyType({}),
        record: Callable[[int, Worth], None] | None = None,
    ) -> list[Worth]:
        """Return the worth of each candidate; it is exact wherever no other candidate is worth more.

        Args:
            candidates: what is compared.
            known: number of a candidate -> what an earlier race found for it.
            record: called with a candidate's number and worth as soon as it is settled.

        Raises:
            PlanError: a candidate with an unknown group or channels that it does not have.
            DataError: the outputs of a candidate are NaN.
        """
        shared = shared_channels(self._groups, candidates)
        names = {idx: _cut(shared, kept) for idx, kept in enumerate(candidates)}
        bounds = {idx: known[idx].value if idx in known else math.inf for idx in range(len(candidates))}
        found = {idx: worth for idx, worth in known.items() if worth.exact}
        bounds = {idx: bound for idx, bound in bounds.items() if idx not in found}

        def settle(idx: int, worth: Worth) -> None:
            found[idx] = worth
            if record is not None:
                record(idx, worth)

        while bounds:
            best = max((worth.value for worth in found.values() if worth.exact), default=-math.inf)
            top = max(bounds.values())
            if top < best:
                break
            runners = [idx for idx, bound in bounds.items() if bound == top]
            self._run({idx: candidates[idx] for idx in runners}, names, best, settle)
            for idx in runners:
                del bounds[idx]
        return [found.get(idx) or Worth(bounds[idx], exact=False) for idx in range(len(candidates))]

    def _run(
        self, candidates: Mapping[int, Kept], names: Mapping[int, tuple[str, ...]], best: float, settle: Settle
    ) -> None:
        """Race some candidates against one another and the `best` so far; `names` says which groups each cuts."""
        coarsely = self._all_literally or told_to_round(self._device)
        if self._referee is not None and coarsely:
            for idx, kept in candidates.items():
                misses = self._referee.misses(kept, torch.arange(len(self._images)))
                settle(idx, Worth(worth_of(self._measure, float(misses.sum()), len(self._images))))
            return
        shared = shared_channels(self._groups, list(candidates.values()))
        if len(candidates) >= MANY and shared != self._here:  # so that something is known of what they share
            self._run({0: shared}, {0: ()}, -math.inf, lambda *_: None)
        stage = self._mend.stage(shared)
        fold(stage.network, self._folds)
        stage.network.to(memory_format=self._format)
        edits = dict(zip(candidates, self._mend.prepare(stage, list(candidates.values())), strict=True))
        field = Field(stage, self._forks, candidates, edits, self._format)
        safety = {idx: self._expected.safety(names[idx]) for idx in candidates}
        exact: dict[int, float] = {}
        close: dict[int, list[Tensor]] = {idx: [] for idx in candidates}  # images that rounding could decide

        def lose(images: Mapping[int, Tensor]) -> dict[int, Tensor]:
            lost = {}
            for idx, outputs in field.outputs(self._images, images, at_once=self._at_once, chunk=self._chunk):
                found = penalties(self._measure, outputs, self._wanted[images[idx]])
                lost[idx], safety[idx][images[idx]] = found
                if self._referee is not None:
                    open_ = undecided(outputs, found.safety)
                    lost[idx] = found.values.masked_fill(open_, 0.0)
                    close[idx].append(images[idx][open_])
            return lost

        def literally(referee: Referee, idx: int) -> float:
            images = torch.cat(close[idx])
            return float(referee.misses(candidates[idx], images).sum()) if len(images) else 0.0

        def note(idx: int, worth: Worth) -> None:
            if worth.exact:
                exact[idx] = worth.value
            settle(idx, worth)

        forms = {idx: self._expected.form(names[idx]) for idx in candidates}
        race(
            forms,
            lose,
            worth=lambda lost: worth_of(self._measure, lost, len(self._images)),
            goal=max(self._expected.goal, min(float(form.losses.sum()) for form in forms.values())),
            best=best,
            step=max(self._chunk, len(self._images) // STEPS),
            doubts=None if self._referee is None else partial(literally, self._referee),
            settle=note,
        )
        won = max(exact, key=lambda idx: exact[idx], default=None)
        self._expected.learn({names[idx]: found for idx, found in safety.items()})
        if won is not None and exact[won] >= best:
            self._expected.go_on_from(safety[won])
            self._here = shared_channels(self._groups, [candidates[won]])

    def _read(self, batches: Batches) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the images in their batches, what is wanted of them, and how safe they are in the dense network."""
        images, wanted, safety = [], [], []
        for inputs, labels in rebatch(batches, None):
            if not len(inputs):
                continue
            images.append(inputs.to(self._device))
            with torch.inference_mode():
                with reading(self._model, inputs):
                    outputs = self._model(own_copy(self._model, images[-1]))
                wanted.append(wanted_outputs(self._measure, outputs, labels))
                safety.append(penalties(self._measure, outputs, wanted[-1]).safety)
        if not images:
            raise DataError("there are no images to evaluate on: the batches are empty")
        return images, torch.cat(wanted), torch.cat(safety)

    def _how_many(self, memory: int) -> int:
        """Return of how many images what is common to candidates fits into `memory` bytes."""
        layers = {m.layer for g in self._groups.values() for m in g.members if m.role in ("consumer", "masked")}
        return memory // max(1, self._forks.bytes_for(layers))


def _cut(shared: Kept, kept: Kept) -> tuple[str, ...]:
    """Return the groups of which a candidate cuts more than all of a race cut."""
    return tuple(sorted(name for name, channels in kept.items() if shared.get(name) != channels))
