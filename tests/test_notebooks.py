"""Every notebook runs from top to bottom and shows pictures."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
# What a kernel has imported serves the next notebook too; its names and parameters do not.
ANEW = "%reset -f\nimport pyro\npyro.clear_param_store()\n%reset -f"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Runs cells in one kernel."""
    folder = {"metadata": {"path": str(tmp_path_factory.mktemp("notebooks"))}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("AEVB_SMOKE", "1")  # a notebook that takes minutes may shorten itself
        reader = NotebookClient(nbformat.v4.new_notebook(), timeout=300, kernel_name="python3", resources=folder)
        with reader.setup_kernel():
            yield reader


def _pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, reader):
    reader.nb = nbformat.read(path, as_version=4)
    reader.nb.cells.insert(0, nbformat.v4.new_code_cell(ANEW))
    for index, cell in enumerate(reader.nb.cells):
        reader.execute_cell(cell, index)
    assert _pictures(reader.nb) > 0
