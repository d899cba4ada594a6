"""Who leads in a comparison, who may be as good, and by which stage and seeds that is said."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from comparisons_for_tests import record
from secateur.quantiles import t_quantile
from secateur_cli.comparison.paired import over_images, packed
from secateur_cli.comparison.results import rows_of
from secateur_cli.comparison.verdicts import lead, standing, verdicts


def test_those_of_its_channels_take_no_lead_from_the_first() -> None:
    records = [
        record("l1", seed, 0.7 + 0.01 * seed, house=house, plan=f"a{seed}")
        for house in ("NNI", "secateur")
        for seed in range(3)
    ]
    records += [record("di", seed, 0.5 + 0.011 * seed, plan=f"b{seed}") for seed in range(3)]
    found = standing(rows_of(records, ["cut"]), "cut")
    assert (found.others, found.leads) == (1, True)


def test_who_is_as_good_on_every_seed_may_be_as_good() -> None:
    records = [record(name, seed, 0.7, plan=f"{name}{seed}") for name in ("l1", "di") for seed in range(3)]
    found = standing(rows_of(records, ["cut"]), "cut")
    assert [row["criterion"] for row in found.within] == ["di"]
    one = [record(name, 0, 0.7, plan=name) for name in ("l1", "di", "hrank")]
    assert "Within chance" not in verdicts(rows_of(one, ["cut"]), ["cut"], images=100)[0]


def test_the_last_stage_decides_the_order() -> None:
    records = [record(name, 0, share, plan=name) for name, share in (("l1", 0.9), ("di", 0.5))]
    for each, last in zip(records, (0.6, 0.7), strict=True):
        each["accuracy"] |= {"fine-tuned": last}
        each["measured_as"] |= {"fine-tuned": each["plan"]}
    assert [row["criterion"] for row in rows_of(records, ["cut", "fine-tuned"])] == ["di", "l1"]


def test_rows_with_fewer_seeds_are_compared_on_those_that_both_have_and_lead_nothing() -> None:
    records = [record("l1", seed, share, house="NNI", plan=f"b{seed}") for seed, share in enumerate((0.9, None))]
    records += [record("di", seed, 0.8 + 0.01 * seed, plan=f"a{seed}") for seed in range(2)]
    assert verdicts(rows_of(records, ["cut"]), ["cut"]) == [
        "50% of the MACs, uniform: l1 (NNI) is first (cut: 90.0%), in one measurement 10.0 points ahead of "
        "di (secateur)."
    ]


def test_who_is_first_by_fewer_seeds_may_be_behind_on_those_that_both_have() -> None:
    """As where the seed under which a network does worst is the one under which its training diverges."""
    records = [record("l1", seed, share, house="NNI", plan=f"b{seed}") for seed, share in enumerate((0.7, 0.72, None))]
    records += [record("di", seed, share, plan=f"a{seed}") for seed, share in enumerate((0.8, 0.81, 0.3))]
    (said,) = verdicts(rows_of(records, ["cut"]), ["cut"])
    assert said.endswith(
        "l1 (NNI) is first (cut: 71.0%), but on the seeds of both 9.5 points (3.1 to 15.9 over 2 seeds) behind "
        "di (secateur)."
    )
    (said,) = verdicts(rows_of([records[0], *records[3:]], ["cut"]), ["cut"])
    assert "l1 (NNI) is first (cut: 70.0%), but on the seeds of both in one measurement 10.0 points behind di" in said


def test_a_lead_needs_an_interval_against_each_of_the_others() -> None:
    """Two fixed rows differ by one measurement, which the clear lead over a third by its seeds does not make surer."""
    fixed = (("l1", "NNI", 0.71), ("magnitude", "Torch-Pruning", 0.712))
    records = [
        record(name, seed, share, house=house, plan=name) | {"measured_as": {"cut": f"cut {name}"}}
        for name, house, share in fixed
        for seed in range(3)
    ]
    records += [record("random", seed, 0.4 + 0.02 * seed, plan=f"r{seed}") for seed in range(3)]
    (said,) = verdicts(rows_of(records, ["cut"]), ["cut"], images=5000)
    assert "magnitude (Torch-Pruning) is first (cut: 71.2%), in one measurement 0.2 points ahead of l1 (NNI)." in said
    rows = rows_of(records, ["cut"])
    ahead = lead(rows[0], rows[2], "cut")
    assert ahead is not None
    assert ahead.seeds.count == 3


def judged(criterion: str, alone: int, others: int, *, house: str = "secateur", together: int = 300) -> list[Any]:
    """Three cells that have `together` of 400 images right as all others do, and `alone` of those that others lack.

    The images that it lacks itself and others have right are `others`.
    """
    image, first = torch.arange(400), together + others
    right = (image < together) | ((image >= first) & (image < first + alone))
    return [
        record(criterion, seed, float(right.float().mean()), house=house, plan=f"{criterion}{seed}")
        | {"right": {"cut": packed(right, image)}}
        for seed in range(3)
    ]


@pytest.mark.parametrize(("alone", "lacking", "verb"), [(13, 6, "is first"), (13, 1, "leads"), (50, 36, "is first")])
def test_a_lead_that_other_images_may_not_show_may_be_chance(alone: int, lacking: int, verb: str) -> None:
    """The seeds agree on it to the last image; the images that the two decide differently say how sure it is."""
    ours = judged("fpgm", alone, lacking)
    theirs = judged("l1", 0, 0, house="NNI", together=300 + lacking)
    (said,) = verdicts(rows_of([*theirs, *ours], ["cut"]), ["cut"], images=400)
    assert f"fpgm (secateur) {verb}" in said
    assert ("which may be chance" in said) is (verb == "is first")
    low, high = (100 / 400 * end for end in paired_ends(alone, lacking, 400))
    assert f" over 3 seeds, {low:.1f} to {high:.1f} over 400 images)" in said


def paired_ends(alone: int, lacking: int, images: int) -> tuple[float, float]:
    """How many images more one network has right than another, by the counts of those that it alone has, or lacks."""
    difference = alone - lacking
    variance = (alone + lacking - difference**2 / images) * images / (images - 1)
    reach = t_quantile(images - 1) * math.sqrt(variance)
    return difference - reach, difference + reach


ROWS = st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=2, max_size=2)


@given(st.lists(ROWS, min_size=1, max_size=3))
def test_over_images_is_a_paired_interval(seeds: list[list[list[bool]]]) -> None:
    labels = torch.arange(7)
    ours, theirs = ([packed(torch.tensor(pair[side]), labels) for pair in seeds] for side in (0, 1))
    differences = [sum(int(a[n]) - int(b[n]) for a, b in seeds) / len(seeds) * 100 for n in range(7)]
    found = over_images(ours, theirs)
    assert found is not None
    assert found.value == pytest.approx(statistics.fmean(differences))
    reach = t_quantile(6) * statistics.stdev(differences) / math.sqrt(7)
    assert found.reach == pytest.approx(reach, abs=1e-9)


def test_images_that_were_read_in_another_order_are_not_paired() -> None:
    image = torch.arange(400)
    in_order, backwards = packed(image < 300, image), packed(image.flip(0) < 300, image.flip(0))
    assert over_images([in_order], [backwards]) is None
    assert over_images([in_order, None], [in_order, in_order]) is None
    assert over_images([], []) is None


def test_a_journal_that_does_not_say_which_images_are_right_is_judged_by_its_seeds() -> None:
    records = [record(name, seed, share, plan=f"{name}{seed}") for name, share in (("l1", 0.7), ("di", 0.75))
               for seed in range(3)]  # fmt: skip
    (said,) = verdicts(rows_of(records, ["cut"]), ["cut"], images=400)
    assert "di (secateur) leads (cut: 75.0%), 5.0 points (5.0 to 5.0 over 3 seeds) ahead of l1" in said
