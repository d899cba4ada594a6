"""What the figures measure, against naive twins and against the run that they are about."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from references import average_ranks, di_batch_gradient, wilson_bounds
from references_figures import change_by_loops, spearman_by_counting, student_interval
from runs_for_tests import User
from secateur import ScoreTable, accuracy, apply_plan, collect_scores, cost_model, uniform_plan
from secateur.batches import rebatch
from secateur.errors import BudgetError, ConfigError, DataError
from secateur_cli.figures.agreement import rank_correlation, relative_change
from secateur_cli.figures.bench import bench
from secateur_cli.figures.catalogue import FIGURES, order_of
from secateur_cli.figures.cells import summarised
from secateur_cli.figures.intervals import spread_of, spread_of_shares
from secateur_cli.figures.order import Found, Order
from secateur_cli.figures.stability import _agreement
from secateur_cli.figures.writing import record_of
from secateur_cli.inputs.epochs import seed_everything
from secateur_cli.progress import Progress
from secateur_cli.settings.config import load_config

pytestmark = pytest.mark.filterwarnings("ignore::secateur.errors.SecateurWarning")  # few images, tiny network
UNTRAINED = ("train=null", "fine_tune=null")


def order(user: User, name: str, *settings: str, **asked: Any) -> Order:
    config = load_config(user.config, overrides=settings)
    return order_of(name, config, folder=user.folder, progress=Progress(Console(file=io.StringIO())), **asked)


def measure(user: User, name: str, *settings: str, **asked: Any) -> Found:
    return FIGURES[name].measure(order(user, name, *settings, **asked))


@pytest.mark.parametrize("values", [3, 12, 40])
def test_correlation_and_change_are_their_twins(values: int) -> None:
    chance = random.Random(values)
    for _ in range(20):
        first, second = ([float(chance.randrange(6)) for _ in range(values)] for _ in range(2))
        second[0] += 0.5
        found = rank_correlation(torch.tensor(first), torch.tensor(second))
        expected = spearman_by_counting(first, second)
        assert (found is None) == (expected is None)
        assert found == pytest.approx(expected, abs=1e-9)
        assert relative_change(torch.tensor(first), torch.tensor(second)) == pytest.approx(
            change_by_loops(first, second)
        )


def test_order_decides_the_correlation_and_not_the_scale() -> None:
    scores = torch.rand(20, dtype=torch.float64)
    assert rank_correlation(scores, scores.exp() * 7) == 1.0
    assert rank_correlation(scores, -scores) == -1.0
    assert relative_change(scores, torch.zeros(20)) is None


@pytest.mark.parametrize("runs", [2, 3, 5, 17, 31, 60])
def test_interval_over_seeds_is_students(runs: int) -> None:
    chance = random.Random(runs)
    values = [chance.random() for _ in range(runs)]
    spread = spread_of(values)
    assert (spread.low, spread.high) == pytest.approx(student_interval(values), abs=1e-4)
    shares = spread_of_shares(values, 10**9)
    assert (shares.low, shares.high) == pytest.approx((max(0, spread.low), min(1, spread.high)), abs=1e-4)


def test_runs_that_agree_leave_open_what_other_images_would_say() -> None:
    spread = spread_of_shares([0.9, 0.9, 0.9], 400)
    assert (spread.low, spread.high) == pytest.approx(wilson_bounds(0.9, 400), abs=1e-9)


def test_interval_needs_a_run() -> None:
    with pytest.raises(ConfigError, match="at least one run; found none"):
        spread_of([])


def maps_by_hand(model: Any, inputs: Tensor) -> dict[str, Tensor]:
    """Return the maps of the two convolutions after their activations."""
    with torch.no_grad():
        first = torch.relu(model.norm(model.first(inputs)))
        return {"first": first, "second": torch.relu(model.second(first))}


def test_ranks_of_each_batch_are_their_twins(user: User) -> None:
    settings = (*UNTRAINED, "data.batch_size=16")
    found = measure(user, "rank-stability", *settings, images=48)
    with bench(order(user, "rank-stability", *settings), 0) as stand:
        seed_everything(stand.job.config.seed)
        batches = list(rebatch(stand.job.data.calibration, 16, samples=48))
        maps = [maps_by_hand(stand.job.model, inputs) for inputs, _ in batches]
    for layer in ("first", "second"):
        expected = [average_ranks(own[layer]) for own in maps]
        own = [row for row in found.rows if row["layer"] == layer]
        measured = [[row[f"batch {number}"] for row in own] for number in (1, 2, 3)]
        assert measured == [pytest.approx(ranks) for ranks in expected]
        assert [row["all"] for row in own] == pytest.approx([sum(column) / 3 for column in zip(*expected, strict=True)])
        pairs = [[expected[j] for j in range(3) if j != i] for i in range(3)]
        others = [[(b + c) / 2 for b, c in zip(*pair, strict=True)] for pair in pairs]
        agreement = next(entry for entry in found.about["layers"] if entry["layer"] == layer)
        known = [spearman_by_counting(expected[i], others[i]) for i in range(3)]
        correlations = sorted(value for value in known if value is not None)
        assert (agreement["least"], agreement["most"]) == pytest.approx((correlations[0], correlations[-1]), abs=1e-6)
    assert found.about["images"] == 48


def test_no_rank_of_a_batch_is_beyond_the_scale_of_its_layer() -> None:
    assert _agreement("conv", torch.tensor([[1.0, 4.0], [2.0, 6.0]]))["largest"] == 6


def test_channels_of_equal_rank_in_all_other_batches_are_ties() -> None:
    own = torch.tensor([31.99, 30.57, 28.2, 29.83], dtype=torch.float64)  # such as means over 100 images
    full = torch.full_like(own, 32.0)
    assert _agreement("conv", torch.stack([own, full]))["median"] is None
    half = torch.tensor([32.0, 32.0, 32.0, 30.57], dtype=torch.float64)
    expected = spearman_by_counting(own.tolist(), half.tolist())
    assert _agreement("conv", torch.stack([own, half]))["least"] == pytest.approx(expected)


def test_information_by_number_of_images_is_its_twin(user: User) -> None:
    settings = (*UNTRAINED, "score.criterion=di", "score.options={batch_size: 16}")
    found = measure(user, "di-stability", *settings, images=32)
    with bench(order(user, "di-stability", *settings), 0) as stand:
        seed_everything(stand.job.config.seed)
        batches = list(rebatch(stand.job.data.calibration, 16, samples=64))
        scores = [
            {name: di_batch_gradient(maps, labels, 0.1) for name, maps in maps_by_hand(stand.job.model, inputs).items()}
            for inputs, labels in batches
        ]
    assert {row["images"] for row in found.rows} == {16, 32}
    for row in found.rows:
        if row["layer"] not in ("first", "second"):
            continue
        own = [table[row["layer"]] for table in scores]
        part = sum(own[: row["images"] // 16]) / (row["images"] // 16)
        for ending, reference in (("", (own[0] + own[1]) / 2), ("others", (own[2] + own[3]) / 2)):
            names = ("correlation with others", "change from others") if ending else ("correlation", "change")
            correlation = spearman_by_counting(part.tolist(), reference.tolist())
            assert row[names[0]] == pytest.approx(correlation, abs=0.03)
            assert row[names[1]] == pytest.approx(change_by_loops(part.tolist(), reference.tolist()), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "settings", "images", "said"),
    [
        ("rank-stability", ("data.batch_size=16",), 20,
         "20 images make 1 batch of 16; at least 2 are needed: ask for more with --images, or make the batches smaller "
         "(data.batch_size)"),
        ("rank-stability", ("data.batch_size=40",), 1280,
         "64 images make 1 batch of 40; at least 2 are needed: make the batches smaller (data.batch_size)"),
        ("di-stability", (), 1280, "64 images make 0 batches of 128; at least 2 are needed: make the batches smaller "
         "(score.options.batch_size of di)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("data", ["secateur_user_data:load", "digits"])
def test_too_few_images_for_two_batches_are_refused_before_any_training(
    user: User, tmp_path: Path, data: str, name: str, settings: tuple[str, ...], images: int, said: str
) -> None:
    """The digits know how many images they are, the user's data do not."""
    known = ("data.source=digits", "data.limit=64", "network.arguments={classes: 10}") if data == "digits" else ()
    with pytest.raises(DataError, match=f"^{re.escape(said)}$"):
        measure(user, name, *known, *settings, images=images, kept=tmp_path / "points")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "images"), [(128, {16, 32}), (32, {32})])
def test_a_smoke_run_makes_batches_that_fit(user: User, size: int, images: set[int]) -> None:
    batches = (*UNTRAINED, "score.criterion=di", f"score.options={{batch_size: {size}}}")
    assert {row["images"] for row in measure(user, "di-stability", *batches, smoke=True).rows} == images


def test_criteria_are_judged_as_by_hand(user: User) -> None:
    asked = {"seeds": 1, "at": "70%,40%", "lines": "l1,hrank", "until": "removed"}
    found = measure(user, "criteria-over-ratios", *UNTRAINED, **asked)
    with bench(order(user, "criteria-over-ratios", *UNTRAINED), 0) as stand:
        job = stand.job
        cost = cost_model("macs", job.model, job.data.example, job.groups)
        expected = {}
        for line in ("l1", "hrank"):
            weights = {name: job.model.get_submodule(name).weight.detach() for name in ("first", "second")}
            norms = ScoreTable({name: weight.abs().sum((1, 2, 3)) for name, weight in weights.items()})
            scores = collect_scores(job.model, job.data.calibration, "hrank") if line == "hrank" else norms
            for share in (0.7, 0.4):
                plan = uniform_plan(job.groups, scores, cost, f"{share:.0%}", round_to=2)
                expected[line, share] = accuracy(apply_plan(job.model, plan), job.data.test), cost(plan.widths)
    measured = {(r["line"], r["at"]): (r["accuracy"], r["macs"]) for r in found.rows if r["stage"] != "dense"}
    assert measured == expected
    assert all(row["scoring_seconds"] >= 0 for row in found.rows if row["stage"] != "dense")


def test_criteria_that_the_network_does_not_allow_are_left_out_unless_named(user: User) -> None:
    settings = (*UNTRAINED, "network.build=secateur_user_networks:Plain")
    found = measure(user, "criteria-over-ratios", *settings, seeds=1, at="50%")
    assert "bn_scale" in found.about["left out"]
    assert "bn_scale" not in {row["line"] for row in found.rows}
    asked = order(user, "criteria-over-ratios", *settings, seeds=1, at="50%")
    record = record_of("criteria-over-ratios", "criteria", found, asked, command="")
    assert "Left out: BN scale, which cannot score this network, or too little of it." in record["caption"]
    assert record["until"] == "removed"
    assert record_of("widths", "kept widths", Found([], {}), asked, command="")["until"] is None
    with pytest.raises(Exception, match="no layer that 'bn_scale' could score"):
        measure(user, "criteria-over-ratios", *settings, seeds=1, at="50%", lines="bn_scale")


def test_criteria_that_score_too_little_are_left_out(user: User) -> None:
    found = measure(user, "criteria-over-ratios", *UNTRAINED, seeds=1, at="70%,20%")  # one of two layers has batch norm
    assert "the lowest cost that can be reached" in found.about["left out"]["bn_scale"]
    assert {"l1", "hrank"} <= {row["line"] for row in found.rows}


def test_points_out_of_reach_are_refused_before_any_is_measured(user: User, tmp_path: Path) -> None:
    asked = order(user, "allocations", *UNTRAINED, seeds=1, at="70%,0.01%", kept=tmp_path)
    with pytest.raises(BudgetError, match="the lowest cost that can be reached"):
        FIGURES["allocations"].measure(asked)
    assert b"uniform at" not in (tmp_path / "seed-0" / "journal.sqlite").read_bytes()


def test_a_figure_removes_the_lowest_scores_whatever_variants_the_run_has(user: User) -> None:
    asked: dict[str, Any] = {"seeds": 1, "at": "0.5", "lines": "uniform", "until": "removed"}
    ablation = ("plan.search=uniform", "plan.variant=[reverse,low]", *UNTRAINED)
    found = measure(user, "allocations", *ablation, **asked)
    usual = measure(user, "allocations", "plan.search=uniform", *UNTRAINED, **asked)
    assert [row["plan"] for row in found.rows[1:]] == [row["plan"] for row in usual.rows[1:]]


def test_no_filter_frozen_is_the_run_itself(user: User, finished: tuple[Path, dict[str, Any]]) -> None:
    found = measure(user, "frozen-shares", seeds=1, at="0,0.5")
    rows = [row for row in found.rows if row["at"] in (None, 0.0)]
    expected = [(stage["stage"], stage["accuracy"]) for stage in finished[1]["accuracy"]]
    assert [(row["stage"], row["accuracy"]) for row in rows] == expected
    assert {row["plan"] for row in rows if "plan" in row} == {finished[1]["plan"]["fingerprint"]}
    assert [row["stage"] for row in found.rows if row["at"] == 0.5][-1] == "fine-tuned"


def test_variants_keep_the_same_widths_and_other_channels(user: User, finished: tuple[Path, dict[str, Any]]) -> None:
    found = measure(user, "selection-variants", seeds=1, until="removed")
    rows = [row for row in found.rows if row["stage"] != "dense"]
    assert [row["line"] for row in rows] == ["low", "middle", "edge", "random", "reverse"]
    assert len({row["macs"] for row in rows}) == 1
    assert rows[0]["plan"] == finished[1]["plan"]["fingerprint"]
    assert len({row["plan"] for row in rows}) == 5


def test_widths_are_those_of_the_plan(user: User, finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    found = measure(user, "widths", lines=f"uniform,{folder}/plan.json")
    by_line: dict[str, list[tuple[Any, ...]]] = {}
    for row in found.rows:
        by_line.setdefault(row["line"], []).append((row["layer"], row["width"], row["kept"]))
    expected = [(group["name"], group["width"], group["kept"]) for group in report["plan"]["groups"]]
    assert list(by_line.values()) == [expected, expected]


def test_plan_of_another_network_is_refused(user: User, finished: tuple[Path, dict[str, Any]]) -> None:
    settings = (*UNTRAINED, "network.build=secateur_user_networks:Residual")
    with pytest.raises(Exception, match=r"a plan of another network, or of other groups; it differs in"):
        measure(user, "widths", *settings, lines=f"{finished[0]}/plan.json")


def test_smaller_steps_judge_more_candidates(user: User) -> None:
    found = measure(user, "accuracy-against-delta", *UNTRAINED, seeds=1, at="0.3,0.05")
    judged = {row["at"]: row["evaluations"] for row in found.rows if row["at"] is not None}
    assert judged[0.05] > judged[0.3] > 0
    assert all(row["macs"] <= 0.5 * row["dense_macs"] for row in found.rows if row["at"] is not None)


def test_ridges_and_allocations_are_all_there(user: User) -> None:
    rho = measure(user, "accuracy-against-rho", *UNTRAINED, seeds=2, at="0.1,10")
    points = summarised(rho.rows)
    assert [(p["line"], p["at"]) for p in points if p["stage"] != "dense"] == [
        ("full maps", 0.1), ("full maps", 10), ("averages", 0.1), ("averages", 10),
    ]  # fmt: skip
    assert {p["accuracy"].runs for p in points} == {2}
    settings = (*UNTRAINED, "recover=recalibrate")
    found = measure(user, "allocations", *settings, seeds=1, at="60%,40%", lines="uniform,curves,greedy")
    rows = [row for row in found.rows if row["stage"] != "dense"]
    assert len(rows) == 3 * 2 * 2
    assert all(row["macs"] <= row["at"] * row["dense_macs"] for row in rows)
    assert {row["stage"] for row in rows} == {"channels removed", "batch norm recalibrated"}
