"""docs/tour.ipynb runs from its first cell to its last, on the demo."""

import resource
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).parents[1]
SECONDS = 180  # of processor time, which is no longer on a machine that has other work

pytestmark = pytest.mark.slow


def test_the_tour_runs_and_its_outputs_are_kept(minilm_folder, tmp_path, monkeypatch):
    notebook = nbformat.read(REPOSITORY / "docs" / "tour.ipynb", as_version=4)
    kept = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert all(kept[1:]), "run it and keep the outputs: jupyter nbconvert --to notebook --execute --inplace"
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "src"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("text/html" in output.get("data", {}) for output in shown) == 3  # pictures
    assert any("optimizer.lr=0.001" in output.get("text", "") or "1e-3" in output.get("text", "") for output in shown)
