"""The rates that [Lin2020]_ published with its code, and the layers of our networks that each belongs to.

Only these are published: one row of its tables for each network, two for GoogLeNet. What they cost by its own
accounting, `secateur.cost.hrank_cost`, is what it printed, with these exceptions:

* *VGG-16-BN.* 116.63 M and 4.81 M parameters with the twelve layers that the published code prunes; 109.09 M and
  2.92 M if the thirteenth rate, 0.8, counts for the last convolution; printed are 108.61 M and 2.64 M.
* *ResNet-110.* The paper printed 148.70 M; its authors corrected it to 156.90 M, and the rates give 156.88 M. The
  parameters are 1.055 M, the printed 38.7% below dense; printed are also 1.04 M.
* *GoogLeNet.* In the printed cost the module c4 counts with the rate of d4. With its own the first row costs 455.68 M
  and 1.88 M instead of the printed 0.45 G and 1.86 M; in the second row the two rates are the same.
* *DenseNet-40.* The two transitions, and no other layers, count with the inputs that are left.

.. [Lin2020] M. Lin et al. HRank: Filter Pruning using High-Rank Feature Map. CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from secateur.search.rates import parse_rates

Layers = Sequence[Sequence[str]]


@dataclass(frozen=True)
class PublishedRates:
    """One row of a published table. Widths round by the mode "hrank" of `secateur.search.keep_count`.

    Attributes:
        network: a factory of `secateur.networks`, or "torchvision.resnet50".
        text: the rates as they were published; `parse_rates` reads them.
        layers: for each rate the layers that it prunes; none where the published code does not use it.
        macs, parameters, top1: as printed, by the accounting of the paper: in millions, in millions, in percent.
        counted: layers whose rate in the printed cost is another than the one that prunes them.
        narrowed: layers that count with the inputs that are left, see `secateur.cost.hrank_cost`.

    Example: what the rates cost, without any plan.
        >>> import torch
        >>> from secateur.cost import hrank_cost
        >>> from secateur.networks import resnet56
        >>> from secateur.search import rate_widths
        >>> cost = hrank_cost(resnet56(), torch.zeros(1, 3, 32, 32))
        >>> cost({}), cost(rate_widths(cost.groups, PUBLISHED_RATES["resnet56"].rates, mode="hrank"))
        (125485706.0, 62715530.0)
    """

    network: str
    text: str
    layers: Layers
    macs: float
    parameters: float
    top1: float
    counted: Mapping[str, float] = field(default_factory=dict)
    narrowed: tuple[str, ...] = ()

    @property
    def rates(self) -> dict[str, float]:
        """Layer -> share of its filters that is removed."""
        return {layer: r for r, layers in zip(parse_rates(self.text), self.layers, strict=True) for layer in layers}

    @property
    def counted_rates(self) -> dict[str, float]:
        """Layer -> share of its filters that the printed cost takes for removed."""
        return self.rates | dict(self.counted)


def _vgg() -> Layers:
    numbers = (0, 1, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15)
    return [*([f"features.conv{number}"] for number in numbers), []]


def _cifar_resnet(blocks: int) -> Layers:
    inner = [[f"layer{s}.{b}.conv{k}"] for s in (1, 2, 3) for b in range(blocks) for k in (1, 2)]
    return [["conv1"], *inner]


def _densenet() -> Layers:
    stages = ([*(f"dense{s}.{b}.conv1" for b in range(12)), f"trans{s}.conv1"] for s in (1, 2, 3))
    names = [name for stage in stages for name in stage]
    return [["conv1"], *([name] for name in names[:-1])]  # no transition behind the last block


def _googlenet() -> Layers:
    modules = ("a3", "b3", "a4", "b4", "c4", "d4", "e4", "a5", "b5")
    branches = ("branch1x1.0", "branch3x3.3", "branch5x5.3", "branch5x5.6", "branch_pool.1")
    return [["pre_layers.0"], *([f"inception_{m}.{b}" for b in branches] for m in modules)]


def _resnet50() -> Layers:
    names = []
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        names.append(f"layer{stage}.0.downsample.0")
        names += [f"layer{stage}.{b}.conv{k}" for b in range(blocks) for k in (1, 2, 3)]
    return [["conv1"], *([name] for name in names)]


PUBLISHED_RATES: Mapping[str, PublishedRates] = MappingProxyType(
    {
        "vgg16_bn": PublishedRates(
            "vgg16_bn", "[0.95]+[0.5]*6+[0.9]*4+[0.8]*2", _vgg(), macs=108.61, parameters=2.64, top1=92.34
        ),
        "resnet56": PublishedRates(
            "resnet56",
            "[0.1]+[0.60]*35+[0.0]*2+[0.6]*6+[0.4]*3+[0.1]+[0.4]+[0.1]+[0.4]+[0.1]+[0.4]+[0.1]+[0.4]",
            _cifar_resnet(9),
            macs=62.72,
            parameters=0.49,
            top1=93.17,
        ),
        "resnet110": PublishedRates(
            "resnet110",
            "[0.1]+[0.40]*36+[0.40]*36+[0.4]*36",
            _cifar_resnet(18),
            macs=156.90,
            parameters=1.04,
            top1=94.23,
        ),
        "densenet40": PublishedRates(
            "densenet40",
            "[0.0]+[0.1]*6+[0.7]*6+[0.0]+[0.1]*6+[0.7]*6+[0.0]+[0.1]*6+[0.7]*5+[0.0]",
            _densenet(),
            macs=167.41,
            parameters=0.66,
            top1=94.24,
            narrowed=("trans1.conv1", "trans2.conv1"),
        ),
        "googlenet": PublishedRates(
            "googlenet",
            "[0.10]+[0.8]*5+[0.85]+[0.8]*3",
            _googlenet(),
            macs=450.0,
            parameters=1.86,
            top1=94.07,
            counted=dict.fromkeys(_googlenet()[5], 0.85),
        ),
        "googlenet-wide": PublishedRates(
            "googlenet",
            "[0.10]+[0.7]+[0.5]+[0.8]*4+[0.5]+[0.6]*2",
            _googlenet(),
            macs=690.0,
            parameters=2.74,
            top1=94.53,
        ),
        "resnet50": PublishedRates(
            "torchvision.resnet50",
            "[0.2]+[0.8]*10+[0.8]*13+[0.55]*19+[0.45]*10",
            _resnet50(),
            macs=1550.0,
            parameters=13.77,
            top1=71.98,
        ),
    }
)
"""Row -> its rates. "googlenet-wide" is the row with fewer MACs removed."""
