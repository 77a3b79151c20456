"""What the tree promises and import-linter cannot tell: what is imported when, and what settings import."""

import ast
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src" / "bertlens"
SCRIPTS = [REPOSITORY / f"{name}.py" for name in ("train", "evaluate", "visualize", "predict", "export")]
HEAVY = {
    "datasets", "huggingface_hub", "lightning_fabric", "matplotlib", "numpy", "pyarrow", "pytorch_lightning",
    "tokenizers", "torch", "torchmetrics", "transformers",
}  # fmt: skip
LIST_MODULES = "import atexit, sys; atexit.register(lambda: print('MODULES', *sys.modules)); "


def imported(statement: str, *arguments: str, cwd: Path) -> tuple[set[str], int]:
    """Return the top-level modules of a process that runs a statement, and its exit status."""
    process = subprocess.run(
        [sys.executable, "-c", LIST_MODULES + statement, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    line = next(line for line in process.stdout.splitlines() if line.startswith("MODULES "))
    return {name.partition(".")[0] for name in line.split()}, process.returncode


@pytest.mark.integration
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("arguments", "status"),
    [("--help", 0), ("--help all", 0), ("--version", 0), ("trainer.devcies=2", 1), ("no.such.key=1", 1)],
)
def test_nothing_heavy_is_imported_before_the_command_line_is_understood(script, arguments, status, tmp_path):
    statement = "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    modules, ended = imported(statement, str(script), *arguments.split(), cwd=tmp_path)
    assert ended == status
    assert "hydra" in modules
    assert modules & HEAVY == set()
    assert list(tmp_path.iterdir()) == []  # and nothing is written


@pytest.mark.integration
def test_the_package_can_be_imported_from_any_folder_and_imports_nothing_heavy(tmp_path):
    modules, status = imported("import bertlens; bertlens.__version__", cwd=tmp_path)
    assert status == 0
    assert modules & HEAVY == set()


def test_settings_import_only_the_mechanism_of_settings():
    graph = grimp.build_graph("bertlens", cache_dir=None)
    modules = [name for name in graph.modules if name.endswith(".settings")]
    assert "bertlens.data.settings" in modules
    for name in modules:
        allowed = {"bertlens.errors"} if name == "bertlens.system.settings" else {"bertlens.system.settings"}
        assert graph.find_modules_directly_imported_by(name) <= allowed | {"bertlens.errors"}, name


def private_imports(path: Path) -> list[str]:
    """Return the names beginning with one underscore that a file imports from other packages."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module not in (None, "__future__"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        foreign = [name for name in names if not name.startswith("bertlens.")]
        found += [name for name in foreign if any(part.startswith("_") for part in name.split("."))]
    return found


@pytest.mark.parametrize("path", [*SCRIPTS, *sorted(SOURCE.rglob("*.py"))], ids=lambda path: path.stem)
def test_no_private_name_of_a_library_is_imported(path):
    assert private_imports(path) == []
