"""The configuration file: defaults, overrides, identity, and what a smoke run makes of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from secateur.training.recipe import Recipe
from secateur_cli.settings.config import RunConfig, load_config
from secateur_cli.settings.training_schema import FineTuneConfig
from secateur_cli.workspace import first_difference


def test_defaults(file: Path) -> None:
    config = load_config(file)
    assert config.output == Path("runs/small")
    assert config.plan.search == ("curves",)
    assert (config.plan.round_to, config.plan.min_keep, config.plan.worth.images) == (8, 1, 1000)
    assert (config.score.criterion, config.score.tap, config.score.samples) == ("hrank", "act", None)
    assert (config.recover.method, config.recover.samples) == ("compensate", None)
    assert config.train is None
    assert config.fine_tune is not None
    assert (config.fine_tune.epochs, config.fine_tune.learning_rate) == (1, 0.01)
    assert config.onnx.batch_sizes == (1, 8, 32)


def test_every_key_is_explained() -> None:
    schema = RunConfig.model_json_schema()
    for section in [schema, *schema["$defs"].values()]:
        for key, field in section["properties"].items():
            assert field.get("description"), f"{section['title']}.{key} has no description"


def test_training_sections_are_recipes(file: Path) -> None:
    config = load_config(file, overrides=["train.epochs=3"])
    assert config.train is not None
    recipe = config.train.recipe(seed=config.seed)
    assert recipe == Recipe(epochs=3, learning_rate=0.1)
    config = load_config(
        file, overrides=["fine_tune={epochs: 9, schedule: steps, milestones: [3, 6.5], distillation: 0.5, freeze: 0.2}"]
    )
    assert config.fine_tune is not None
    stepped = Recipe(epochs=9, schedule="steps", milestones=(3, 6.5), distillation=0.5)
    assert config.fine_tune.recipe(seed=0) == stepped
    assert config.fine_tune.has_teacher


def test_training_sections_have_every_number_of_a_recipe(file: Path) -> None:
    """But the seed, which the run has, and the recalibration, which `recover` says."""
    numbers = {field.name for field in dataclasses.fields(Recipe)} - {"seed", "recalibrate"}
    manner = {"freeze", "like", "layer_by_layer", "restart_batch_norm"}
    assert FineTuneConfig.model_fields.keys() == numbers | manner
    for name, field in FineTuneConfig.model_fields.items():
        if name not in manner | {"distillation"}:
            assert field.default == getattr(Recipe(), name)


@pytest.mark.parametrize("method", ["none", "recalibrate", "compensate"])
def test_recovery_is_a_word_or_a_mapping(file: Path, method: str) -> None:
    word = load_config(file, overrides=[f"recover={method}"])
    assert word.recover.method == method
    assert word.canonical() == load_config(file, overrides=[f"recover={{method: {method}}}"]).canonical()
    assert load_config(file, overrides=["recover.samples=9"]).recover.method == "compensate"


def test_overrides_replace_add_and_keep_the_rest(file: Path) -> None:
    config = load_config(
        file, overrides=["plan.budget.macs=40%", "plan.search=[uniform, greedy]", "seed=7", "fine_tune=null", "seed=8"]
    )
    assert config.plan.budget.macs == "40%"
    assert config.plan.search == ("uniform", "greedy")
    assert config.seed == 8
    assert config.fine_tune is None
    assert config.data == load_config(file).data


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("-2E+5", -2e5), (".5e1", 5.0), ("1.5e3", 1500.0), ("'1e-3'", "1e-3"), ("1e5x", "1e5x")],
)
def test_numbers_with_an_exponent_are_numbers(file: Path, text: str, value: object) -> None:
    """Also where any value is allowed, as among the arguments of a network."""
    assert load_config(file, overrides=[f"network.arguments={{rate: {text}}}"]).network.arguments == {"rate": value}
    file.write_text(f"{file.read_text()}score: {{criterion: di, options: {{rho: 1e-3}}}}\n")
    assert load_config(file).score.options == {"rho": 0.001}


def test_configurations_are_immutable(file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(file).seed = 3


def test_merged_keys_may_be_given_again(file: Path) -> None:
    file.write_text(
        file.read_text() + "train: &base {epochs: 3, learning_rate: 0.5}\nfine_tune: {<<: *base, epochs: 1}\n"
    )
    config = load_config(file)
    assert config.fine_tune is not None
    assert (config.fine_tune.epochs, config.fine_tune.learning_rate) == (1, 0.5)


def test_smoke_is_small_and_another_run(file: Path) -> None:
    config = load_config(
        file, overrides=["train={epochs: 30, warmup_epochs: 5}", "score.samples=500", "plan.search=[uniform, greedy]",
                         "recover.samples=500"]
    )  # fmt: skip
    smoke = config.smoke()
    assert smoke.train is not None
    assert (smoke.train.epochs, smoke.train.warmup_epochs) == (1, 0)
    assert smoke.data.limit == smoke.score.samples == smoke.recover.samples == 64
    assert smoke.plan.worth.images == 16
    assert len(smoke.onnx.batch_sizes) == 1
    assert smoke.onnx.seconds <= 0.2
    assert smoke.plan.search == config.plan.search[:1]
    assert smoke.canonical() != config.canonical()
    assert RunConfig.model_validate(smoke.model_dump()) == smoke
    assert smoke.smoke() == smoke


def test_keys_of_searches_that_a_smoke_run_leaves_out_go_with_them(file: Path) -> None:
    config = load_config(
        file, overrides=["plan.search=[uniform, greedy, rates]", "plan.rates='[0.5]'", "plan.rescore=3"]
    )
    smoke = config.smoke()
    assert (smoke.plan.search, smoke.plan.rates, smoke.plan.rescore) == (("uniform",), None, None)
    assert RunConfig.model_validate(smoke.model_dump()) == smoke


def test_scoring_anew_is_a_word_or_a_number_of_steps(file: Path) -> None:
    given = {"true": 1, "false": None, "4": 4}
    for word, steps in given.items():
        assert load_config(file, overrides=["plan.search=greedy", f"plan.rescore={word}"]).plan.rescore == steps


def test_what_makes_a_run_forgets_only_the_output(file: Path) -> None:
    config = load_config(file)
    assert load_config(file, overrides=["output=/elsewhere"]).canonical() == config.canonical()
    for override in ["seed=1", "plan.round_to=4", "data.batch_size=64", "onnx.threads=1", "fine_tune=null"]:
        assert load_config(file, overrides=[override]).canonical() != config.canonical(), override


def test_what_makes_a_run_does_not_tell_a_default_from_the_same_value_written_out(file: Path) -> None:
    assert load_config(file, overrides=["plan.round_to=8"]).canonical() == load_config(file).canonical()


def test_first_difference_names_the_key(file: Path) -> None:
    saved = json.loads(json.dumps(load_config(file).canonical()))
    assert first_difference(saved, load_config(file, overrides=["output=x"]).canonical()) is None
    other = load_config(file, overrides=["plan.budget.macs=40%"]).canonical()
    assert first_difference(saved, other) == "plan.budget.macs: '50%' before, '40%' now"
    trained = load_config(file, overrides=["train.epochs=2"]).canonical()
    assert (first_difference(saved, trained) or "").startswith("train: None before")
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == "b: absent before, given now"
