"""The pages of examples/guides: their code runs, their commands parse, links lead somewhere, the reference builds."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.core import TyperGroup

from guides_for_tests import GUIDES, PAGES, ROOT, blocks, reader
from secateur_cli.comparison.schema import CompareRun
from secateur_cli.main import app
from secateur_cli.settings.config import load_config
from secateur_cli.settings.schema import RunConfig

WALKED = "new_criterion.md"  # its blocks are files and parts of files
SHOWN = [page for page in GUIDES if page.name != WALKED and any(kind == "python" for kind, _ in blocks(page))]


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore:fewer rows than unknowns", "ignore:hrank gives more than a quarter")
def test_what_a_page_shows_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Block after block in one session; a block of text behind one of Python is what that prints."""
    if page.stem == "nni":
        pytest.importorskip("nni")
    monkeypatch.chdir(tmp_path)
    names = reader() | {"train": lambda *_, **__: None, "loss": torch.nn.functional.cross_entropy}
    printed = ""
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
            printed = capsys.readouterr().out
        elif language == "text":
            assert printed == code


def test_the_pages_with_code_are_these() -> None:
    assert [page.stem for page in SHOWN] == ["deployment", "nni", "numbers", "python", "torch_pruning"]


def commands(page: Path) -> list[list[str]]:
    """The words of each command on a page: on lines of its own, and within the text where it names a file."""
    text = page.read_text(encoding="utf-8")
    inline = [" ".join(found.split()) for found in re.findall(r"`(secateur [^`]+)`", text)]
    lines = re.findall(r"^\$ (.*)$", text, re.MULTILINE) + [
        found for found in inline if "examples/" in found and "NAME" not in found
    ]
    chained = [part for line in lines for part in line.split(" && ")]
    return [words for words in map(shlex.split, chained) if words[0] == "secateur"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_name_files_options_and_keys_that_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert commands(page) or page.stem not in ("command_line", "measurements")
    for _, *words in commands(page):
        group: Any = typer.main.get_command(app)
        while isinstance(group, TyperGroup):
            name = words.pop(0)
            group = group.commands[name]
        asked = group.make_context(name, list(words)).params
        if "config" in asked and name in ("run", "search", "compare", "figure"):
            kind = CompareRun if name == "compare" else RunConfig
            load_config(asked["config"], kind=kind, overrides=asked.get("change") or [])


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/**/*.yaml")), ids=lambda path: path.stem)
def test_changes_that_a_configuration_proposes_are_taken(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = " ".join(line.removeprefix("#") for line in text.splitlines() if line.startswith("#"))
    kind = CompareRun if path.parent.name == "compare" else RunConfig
    proposed = re.findall(r"(?:--set +(?:'[^']+'|[^\s;)]+)\s*)+", " ".join(head.split()))
    assert proposed or path.parent.name not in ("compare", "reproduce")
    for together in proposed:
        changes = [word.rstrip(".,:") for word in shlex.split(together) if word != "--set"]
        load_config(path, kind=kind, overrides=[change for change in changes if "=..." not in change])


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_is_found_from_the_index_and_from_the_readme() -> None:
    index = (ROOT / "examples/guides/README.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in GUIDES:
        assert page.name == "README.md" or f"({page.name})" in index
        assert f"(examples/guides/{page.name}" in readme


def test_a_criterion_is_added_as_its_page_says(tmp_path: Path) -> None:
    """On a copy of the plugin: one file, one row, and the contract of all criteria holds for it, doctest included."""
    page = ROOT / "examples/guides" / WALKED
    file, row = (code for kind, code in blocks(page) if kind == "python")
    where = re.findall(r"`plugin/(secateur/criteria/\w+\.py)`", page.read_text(encoding="utf-8"))
    assert where == ["secateur/criteria/peak.py", "secateur/criteria/__init__.py"]
    shutil.copytree(ROOT / "plugin" / "secateur", tmp_path / "secateur", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / where[0]).write_text(file, encoding="utf-8")

    imported, _, entry = row.partition("\n\nCRITERIA = {\n")
    text = (tmp_path / where[1]).read_text(encoding="utf-8")
    first = "from secateur.criteria.compact_fusion"
    known = re.search(r"^CRITERIA: .*\n    \{\n", text, re.MULTILINE)
    assert known is not None
    text = text[: known.end()] + f"    {entry.removesuffix('}' + chr(10))}" + text[known.end() :]
    text = text.replace(first, f"{imported}\n{first}", 1).replace("__all__ = [\n", '__all__ = [\n    "Peak",\n', 1)
    (tmp_path / where[1]).write_text(text, encoding="utf-8")

    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for check in (("check", "--fix", where[1]), ("check", *where), ("format", "--check", *where)):
        words = [sys.executable, "-m", "ruff", *check, "--no-cache"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    contract = shutil.copy(ROOT / "tests/criteria/test_criterion_contract.py", tmp_path)
    choice = ("-k", "peak or criteria.criterion", "-m", "not gpu")  # which takes what conftest.py offers
    options = ("-q", "-p", "no:cacheprovider", "--doctest-modules", *choice)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "/dev/null", *options, "--rootdir", str(tmp_path), contract, *where],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 26, "the contract, the example of the docstring, and that of the names"


# --- the API reference ------------------------------------------------------------------------------------------------


def reference_command() -> list[str]:
    (command,) = re.findall(r"^\$ (python .*pdoc.*)$", (ROOT / "examples/guides/README.md").read_text("utf-8"), re.M)
    return shlex.split(command)


def test_the_reference_covers_every_room() -> None:
    rooms = {
        f"secateur.{path.parent.name}"
        for path in (ROOT / "plugin/secateur").glob("*/__init__.py")
        if getattr(importlib.import_module(f"secateur.{path.parent.name}"), "__all__", None)
    }
    assert rooms - {"secateur.regression"} <= set(reference_command())


@pytest.mark.thorough
def test_the_reference_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    command = [sys.executable, *reference_command()[1:]]
    command[command.index("api")] = str(tmp_path / "api")
    try:
        importlib.import_module("nni")
    except ImportError:
        command = [word for word in command if not word.startswith("secateur_nni.")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "HRankImportance" in (tmp_path / "api/secateur.html").read_text(encoding="utf-8")
    assert (tmp_path / "api/secateur/search.html").is_file()


SOURCES = sorted([*ROOT.glob("plugin/**/*.py"), *ROOT.glob("adapters/**/*.py")])


def test_every_work_that_is_cited_is_named_in_the_same_file() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        cited = set(re.findall(r"\[([A-Z][A-Za-z]+(?:\d{4})?)\]_", text))
        assert cited <= set(re.findall(r"^\s*(?:\.\. )?\[(\w+)\]_? ", text, re.MULTILINE)), path


def resolves(name: str) -> bool:
    """Whether a dotted name leads from a module to something; fields of a class count."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if part in getattr(found, "__annotations__", {}):
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_backticks_exist(path: Path) -> None:
    if "secateur_nni" in path.parts or path.name == "nni.md":
        pytest.importorskip("nni")
    names = set(re.findall(r"`(secateur(?:_\w+)?(?:\.\w+)+)(?=[`(])", path.read_text(encoding="utf-8")))
    assert [name for name in sorted(names) if not resolves(name)] == []
