"""Do criteria see what removal costs? Their order of the channels of a trained ResNet-56 against reconstruction's.

    python examples/benchmarks/criteria_agreement.py            # minutes
    python examples/benchmarks/criteria_agreement.py --smoke    # ResNet-20, few images; nothing is asserted

Reconstruction scores a channel by the squared error of the layers that read it when it goes and the others make up for
it as well as they can, which is what compensation leaves. Shown for each criterion: the rank correlation of its scores
with these, in the median and the worst of the layers inside the blocks, and the share of the half that it would remove
which reconstruction would remove, too: 0.5 by chance. Asserted is that random scores agree with nothing, and that HRank
agrees less than L1 does, which `examples/guides/measurements.md` takes for the reason why it does not lead.
"""

from __future__ import annotations

import argparse
import statistics

from _trained_resnet56 import add_arguments, load
from torch import Tensor

import secateur
from secateur.scoring import scores_by_name
from secateur_cli.figures.agreement import rank_correlation

CRITERIA = ("random", "hrank", "l1", "di", "mean_activation", "variance")


def main() -> None:
    parser = argparse.ArgumentParser(description="how far criteria agree with the error of reconstruction")
    parser.add_argument("--criteria", nargs="*", default=list(CRITERIA))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a small network, few images, two criteria, no bound")
    add_arguments(parser)
    given = parser.parse_args()
    if given.smoke:
        given.criteria = given.criteria[:2]
    network, groups, data = setting = load(given, seed=given.seed)
    samples = 32 if given.smoke else None
    errors = secateur.reconstruction_scores(network, groups, data.calibration, samples=samples or 1000)
    print(f"{setting.name}, seed {given.seed}, the dense network's maps")
    print(f"{'against reconstruction':24}{'median':>8}{'lowest':>8}{'half in common':>16}", flush=True)
    medians = {}
    for criterion in given.criteria:
        scores = scores_by_name(network, data.calibration, criterion, samples=samples, groups=groups)
        pairs = [(group.combine(scores), group.combine(errors)) for group in groups.values()]
        found = [rank_correlation(ours, theirs) or 0.0 for ours, theirs in pairs]
        common = statistics.mean(in_common(ours, theirs) for ours, theirs in pairs)
        medians[criterion] = statistics.median(found)
        print(f"{criterion:24}{medians[criterion]:8.2f}{min(found):8.2f}{common:16.2f}", flush=True)
    if not given.smoke:
        assert abs(medians.get("random", 0.0)) < 0.3
        assert medians.get("hrank", -1.0) < medians.get("l1", 1.0), "HRank agrees more than L1"


def in_common(ours: Tensor, theirs: Tensor) -> float:
    """Return the share of the lower half of one that lies in the lower half of the other."""
    lower = [set(scores.argsort(stable=True)[: len(scores) // 2].tolist()) for scores in (ours, theirs)]
    return len(lower[0] & lower[1]) / len(lower[0])


if __name__ == "__main__":
    main()
