"""What a checkout promises as a whole: cheap imports, pinned names, declared dependencies."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "datasets", "peft", "scipy"}
PUBLIC = {
    "unlearn": {
        "METHODS",
        "Lineage",
        "Method",
        "ModelState",
        "Objective",
        "Record",
        "Records",
        "Result",
        "Secret",
        "ShardedModel",
        "UnlearnError",
        "UnlearnTrainer",
        "errors",
        "federate",
        "finetune",
        "finetune_shards",
        "forget",
        "forget_federated",
        "forget_shards",
        "open_model",
    },
    "unlearn_eval": {
        "ATTACKS",
        "PROBES",
        "Audit",
        "AuditRow",
        "TokenScores",
        "audit_rows",
        "run_audit",
    },
}
# extras of tools alone: nothing in the packages imports them
TOOLS = {"dev", "docs", "mutation"}
# the distribution, where its name is not the module's
DISTRIBUTION = {"yaml": "pyyaml"}
# needed without an import: Trainer runs on the one, SQLAlchemy loads the other for PostgreSQL
INDIRECT = {"accelerate", "bitsandbytes", "psycopg"}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the dotted name and the file of every module of both packages."""
    for package in (ROOT / "unlearn", ROOT / "eval" / "unlearn_eval"):
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), path


MODULES = dict(modules())


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def imports(name: str) -> set[str]:
    """Return the modules that a module imports, wherever in its text."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: write absolute imports"
            module = node.module or ""
            inside = {f"{module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= inside or {module}
    return found


def run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import unlearn",
        "import unlearn_eval",
        "import unlearn_eval.certificate",
        "from unlearn.apps.cli import run; assert run(['--help']) == 0",
        "from unlearn.apps.cli import run; assert run(['forget', '--help']) == 0",
    ],
)
def test_importing_and_helping_are_cheap(code: str) -> None:
    printed = run_python(f"{code}\nimport sys\nprint('loaded:', *sys.modules)")
    assert not HEAVY & set(printed.rpartition("loaded:")[2].split())


def test_the_command_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "unlearn", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "unlearn demo" in done.stdout


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_are_pinned_and_lead_somewhere(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) == PUBLIC[package]
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_every_module_says_what_it_is_for() -> None:
    assert [name for name in MODULES if not ast.get_docstring(tree(name))] == []


def project() -> dict[str, list[str]]:
    """Return the names of the runtime, the development and other optional dependencies."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"runtime": table["dependencies"], **table["optional-dependencies"]}
    return {key: [normal(re.split(r"[<>=!~ \[]", x)[0]) for x in v] for key, v in groups.items()}


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_what_is_imported_is_declared_and_the_reverse() -> None:
    tops = {imported.split(".")[0] for name in MODULES for imported in imports(name)}
    third = tops - set(sys.stdlib_module_names) - {"unlearn", "unlearn_eval"}
    used = {normal(DISTRIBUTION.get(name, name)) for name in third}
    declared = {x for group, names in project().items() if group not in TOOLS for x in names}
    assert used | INDIRECT == declared


def test_every_dependency_is_pinned() -> None:
    groups = project()
    federated = {*groups["runtime"], *groups.pop("federated")}  # Flower wants older libraries
    wanted = {x for group in groups.values() for x in group}
    for file, names in (("constraints.txt", wanted), ("constraints-federated.txt", federated)):
        lines = (ROOT / file).read_text().splitlines()
        pins = [line.split("==") for line in lines if not line.startswith("#")]
        assert {normal(name) for name, _ in pins} >= names
        # a suffix such as +cpu would tie the pin to one build
        assert not [version for _, version in pins if "+" in version]


def test_the_installed_version_is_the_source_s() -> None:
    assert metadata.version("unlearn-toolkit") == importlib.import_module("unlearn").__version__
