"""Every way to get the configuration file wrong: the key is named, and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from secateur.errors import ConfigError
from secateur_cli.settings.config import load_config


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
