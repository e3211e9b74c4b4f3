"""The worked example, carried out: `python docs/example.py` runs example.ipynb and keeps what its cells say.

A cell that fails ends it. Figures are kept as they are drawn, so the notebook is worth reading where it is only shown.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).with_name("example.ipynb")
ALONE = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore:IProgress"}  # small tensors; tqdm wants ipywidgets


def carried_out() -> NotebookNode:
    """The notebook with the outputs of all its cells, run anew in an empty folder; raises CellExecutionError."""
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    with TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, resources=resources, record_timing=False, coalesce_streams=True)
        client.execute(env={**os.environ, **ALONE})
    notebook.metadata["language_info"] = {"name": "python"}  # of no particular version
    return notebook


if __name__ == "__main__":
    nbformat.write(carried_out(), NOTEBOOK)
