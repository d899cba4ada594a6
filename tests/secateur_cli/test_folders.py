"""Where results go: `~` is the home folder wherever it is written, and a folder without a name finds one."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs_for_tests import User, give
from secateur.errors import ConfigError
from secateur_cli.commands.folders import output_folder
from secateur_cli.settings.config import load_config, resolve


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder and a working directory, both empty."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_the_home_folder_wherever_it_is_written(user: User, home: Path) -> None:
    config = load_config(user.config, overrides=["output=~/runs/x"])
    assert config.output == home / "runs" / "x"
    assert output_folder(None, config) == home / "runs" / "x"
    assert output_folder(None, config, ending="-smoke") == home / "runs" / "x-smoke"
    assert output_folder(Path("~/y"), config, ending="-smoke") == home / "y"


def test_results_in_the_home_folder(user: User, home: Path) -> None:
    code, _, complained = give("search", str(user.config), "--set", "output=~/x", "--set", "train=null")
    assert (code, complained) == (0, "")
    assert (home / "x" / "plan.json").is_file()
    assert list(Path.cwd().iterdir()) == []


def test_a_folder_that_is_written_without_its_name(user: User, home: Path) -> None:
    for written, expected in {".": "work-smoke", "..": f"{home.parent.name}-smoke", "x/.": "x-smoke"}.items():
        folder = output_folder(None, load_config(user.config, overrides=[f"output={written}"]), ending="-smoke")
        assert folder.name == expected, written
    assert output_folder(None, load_config(user.config, overrides=["output=."])) == Path()


@pytest.mark.parametrize(
    ("words", "ending"), [(("run",), "-smoke"), (("compare",), "-smoke"), (("figure", "widths"), "-figures-smoke")]
)
def test_a_folder_without_a_name_is_refused(user: User, home: Path, words: tuple[str, ...], ending: str) -> None:
    more = ("--set", "plan={round_to: 2}", "--set", "compare={criteria: [l1], budgets: [50%]}")
    compared = more if words == ("compare",) else ()
    code, _, complained = give(*words, str(user.config), "--smoke", "--set", "output=/", *compared)
    assert complained == f"error: output: / has no name that {ending} could follow; choose a folder with --output\n"
    assert code == 2


def test_nobody_s_home_folder_is_refused(user: User) -> None:
    with pytest.raises(ConfigError, match="output: ~nobody-here/x: there is no home folder ~nobody-here"):
        load_config(user.config, overrides=["output=~nobody-here/x"])
    with pytest.raises(ConfigError, match="no home folder ~nobody-here"):
        output_folder(Path("~nobody-here"), load_config(user.config))
    with pytest.raises(ConfigError, match="no home folder ~nobody-here"):
        resolve(Path("~nobody-here/net.safetensors"), user.folder)
