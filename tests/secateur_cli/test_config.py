"""The configuration file: defaults, overrides, identity, and every way to get it wrong."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from secateur.errors import ConfigError
from secateur.training.recipe import Recipe
from secateur_cli.settings.config import RunConfig, load_config
from secateur_cli.settings.training_schema import FineTuneConfig
from secateur_cli.workspace import first_difference

MINIMAL: dict[str, Any] = {
    "network": {"build": "torchvision.models:resnet18"},
    "data": {"source": "digits"},
    "plan": {"budget": {"macs": "50%"}},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.bugdet=1", "plan.bugdet: unknown key; did you mean 'budget'?"),
        ("nework.build=a:b", "nework: unknown key; did you mean 'network'?"),
        ("fine_tune.epoch=3", "fine_tune.epoch: unknown key; did you mean 'epochs'?"),
        ("plan.budget={flops: 50%}", "plan.budget.flops: unknown key; did you mean 'flops2'?"),
        (
            "plan.budget={energy: 50%}",
            "plan.budget.energy: unknown key; allowed: macs, parameters, bytes, flops2, thop",
        ),
        ("plan.budget={}", "plan.budget: no budget; give at least one of macs, parameters, bytes"),
        ("plan.budget.macs=null", "plan.budget: no budget; give at least one of macs, parameters, bytes"),
        ("plan.budget.parameters=half", "plan.budget.parameters: the budget 'half' is malformed"),
        ("plan.budget.bytes=0", "plan.budget.bytes: the budget 0 must be positive"),
        ("plan.worth.images=0", "plan.worth.images: 0: must be greater than 0"),
        (
            "plan.worth.measure=top5",
            "plan.worth.measure: 'top5' is not allowed; allowed: 'accuracy', 'loss', 'fidelity'",
        ),
        ("plan.worth.recovery=yes", "plan.worth.recovery: True is not allowed; allowed: 'none', 'recalibrate'"),
        ("plan.worth.image=9", "plan.worth.image: unknown key; did you mean 'images'?"),
        ("plan.budget=50%", "plan.budget: '50%': must be a mapping with the keys macs"),
        ("plan.budget.macs=50", "plan.budget.macs: the budget 50 is ambiguous"),
        ("plan.budget.macs=150%", "plan.budget.macs: the budget '150%' is out of range"),
        ("plan.budget.macs=100%", "plan.budget.macs: the budget '100%' is already met"),
        ("plan.budget.macs=half", "plan.budget.macs: the budget 'half' is malformed"),
        ("plan.budget.macs=[1]", "plan.budget.macs: [1]: must be a share"),
        ("plan.budget.macs=true", "plan.budget.macs: True: must be a share"),
        ("plan.search=greed", "plan.search.0: 'greed' is not allowed; allowed: 'curves', 'uniform', 'greedy'"),
        ("plan.search=[greedy, greedy]", "plan: search: greedy, greedy: the same search twice"),
        ("plan.search=[]", "plan.search: []: must hold at least one entry"),
        ("plan.round_to=0", "plan.round_to: 0: must be greater than 0"),
        ("plan.round_to=2.5", "plan.round_to: 2.5: must be a whole number"),
        ("plan.round_to=true", "plan.round_to: True: must be a whole number"),
        (
            "plan.search=rates",
            "plan: search: rates needs the key rates: the share of its channels",
        ),
        ("plan.search=distilled", "plan: search: distilled needs the key shallow: the plan of a shallow network"),
        ("plan.rates=resnet56", "plan: rates: a key of search: rates, but the search is curves"),
        ("plan.shallow={plan: a, build: 'm:f'}", "plan: shallow: a key of search: distilled, but the search is curves"),
        ("plan.rescore=true", "plan: rescore: a key of search: greedy, but the search is curves"),
        ("plan.greedy_from=80%", "plan: greedy_from: a key of search: greedy, but the search is curves"),
        ("plan.greedy_from=80", "plan.greedy_from: 80: must be a share of the dense network's cost such as 80%"),
        ("plan.greedy_from=100%", "plan.greedy_from: the budget '100%' is already met"),
        ("plan.rescore=0", "plan.rescore: 0: must be greater than 0"),
        ("plan.rescore=often", "plan.rescore: 'often': must be a whole number"),
        ("plan.rates=resnet57", "part 1 of the rates 'resnet57' is 'resnet57'; allowed: a rate such as [0.5]"),
        ("plan.rates=resnet57", "or a name: vgg16_bn, resnet56, resnet110"),
        (
            "plan.rates='[0.5]+[1]'",
            "plan.rates: part 2 of the rates '[0.5]+[1]' is '[1]'; a rate needs",
        ),
        ("plan.rates={conv1: half}", "must be a number"),
        ("plan.shallow={plan: a}", "plan.shallow.build: missing; it must be given: import path of what builds"),
        ("plan.exponent=-1", "plan.exponent: -1: must be at least 0"),
        ("plan.delta=.nan", "plan.delta: nan: must be a finite number"),
        ("score.tap=relu", "score.tap: 'relu' is not allowed; allowed: 'act', 'bn', 'conv'"),
        ("score.criterion=hrnak", "score: unknown criterion 'hrnak'; did you mean 'hrank'?"),
        ("score.options={rows: 3}", "score: unknown option of the criterion 'hrank': 'rows'"),
        ("score={criterion: l1, options: {rows: 3}}", "unknown option of the criterion 'l1': 'rows'; allowed: none"),
        ("plan.delta=2", "plan.delta: 2: must be at most 1"),
        ("plan.autopruner={pull: 0}", "plan.autopruner.pull: 0: must be a number greater than 0, or false"),
        ("seed=[", "--set 'seed=[': the value is not YAML: expected the node content, but found '<stream end>'"),
        ("recover=maybe", "recover.method: 'maybe' is not allowed; allowed: 'none', 'recalibrate', 'compensate'"),
        (
            "recover=null",
            "recover: None: must be none, recalibrate, compensate, sketch, or a mapping with the keys method",
        ),
        ("recover=no", "recover: False: must be none, recalibrate, compensate, sketch, or a mapping"),
        (
            "recover=[compensate]",
            "recover: ['compensate']: must be none, recalibrate, compensate, sketch, or a mapping",
        ),
        ("recover.method=all", "recover.method: 'all' is not allowed; allowed: 'none', 'recalibrate', 'compensate'"),
        ("recover.sample=9", "recover.sample: unknown key; did you mean 'samples'?"),
        ("recover.samples=1", "recover.samples: 1: must be at least 2"),
        ("recover.samples=few", "recover.samples: 'few': must be a whole number"),
        ("onnx.provider=gpu", "onnx.provider: 'gpu' is not allowed; allowed: 'cpu', 'cuda', 'tensorrt'"),
        ("train.epochs=many", "train.epochs: 'many': must be a whole number"),
        ("train={epochs: 2, warmup_epochs: 3}", "train: warmup_epochs: 3: must be at most the epochs, 2"),
        ("fine_tune.milestones=[1]", "fine_tune: milestones must be ascending epochs > 0 with the schedule 'steps'"),
        ("fine_tune.schedule=linear", "fine_tune.schedule: 'linear' is not allowed; allowed: 'cosine', 'steps'"),
        ("fine_tune.optimizer=adam", "fine_tune.optimizer: 'adam' is not allowed; allowed: 'sgd', 'adamw'"),
        ("fine_tune.freeze=15", "fine_tune.freeze: 15: must be at most 1"),
        ("fine_tune.average=1", "fine_tune.average: 1: must be less than 1"),
        ("train.freeze=0.1", "train.freeze: unknown key"),
        ("train.learning_rate=fast", "train.learning_rate: 'fast': must be a number"),
        ("network=resnet18", "network: 'resnet18': must be a mapping with the keys build, arguments, weights"),
        ("data.source=mnist", "data: source 'mnist' is unknown; allowed: digits, cifar10, cifar100, image-folder"),
        ("data.source=image-folder", "data: source 'image-folder' needs the key train and test"),
        ("data.source=cifar10", "data: source 'cifar10' needs the key root"),
        ("data.root=/there", "data: root: not a key of source 'digits'"),
        ("data.mean=[0.5]", "data: mean and std must be given together"),
        ("data.validation_share=1", "data.validation_share: 1: must be less than 1"),
        ("seed=-1", "seed: -1: must be at least 0"),
        ("seed.first=1", None),
        ("plan.budget.macs.share=1", "--set 'plan.budget.macs.share=1': plan.budget.macs is a value and has no keys"),
        ("plan.round_to", "--set 'plan.round_to': must be a key and a value"),
        ("=3", "--set '=3': must be a key and a value"),
        ("plan..round_to=3", "--set 'plan..round_to=3': must be a key and a value"),
        ("seed=9223372036854775808", "must be less than 9223372036854775808"),
        ("threads=100000", "threads: 100000: must be at most 1024"),
        ("onnx.threads=100000", "onnx.threads: 100000: must be at most 1024"),
        ("seed=[1", "--set 'seed=[1': the value is not YAML"),
    ],
)
def test_wrong_settings_are_named(file: Path, override: str, message: str | None) -> None:
    with pytest.raises(ConfigError, match=re.escape(message or "seed: {'first': 1}: must be a whole number")):
        load_config(file, overrides=[override])


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides=["plan.rond_to=3", "seed=x"])
    first, *mistakes = str(caught.value).splitlines()
    assert first == f"{file}:"
    assert [line.split(":")[0].strip() for line in mistakes] == ["plan.rond_to", "seed"]


def test_training_a_network_with_weights_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="the network has weights already"):
        load_config(file, overrides=["network.weights=w.safetensors", "train.epochs=1"])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration file .*absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


def test_folder_instead_of_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network: {build: a\nplan: 3\n", "line 2.*not YAML"),
        ("seed: 1\n\tplan: 3\n", "line 2.*not YAML"),
        (
            "seed: 1\nplan: {round_to: 2, round_to: 4}\n",
            "line 2, column 21: not YAML: the key 'round_to' is given twice",
        ),
        ("3: 4\n", "a key must be text"),
        ("seed: !!python/object/apply:os.system [exit]\n", "line 1.*not YAML"),
        ("", "must be a mapping with the keys network, data, .*found nothing"),
        ("- network\n", "must be a mapping .* found list"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


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
