"""docs/bars.ipynb: its code for a test, and `make notebook`, which runs it beside make run and draws its picture."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "bars.ipynb"
PICTURE = ROOT / "docs" / "bars.png"


def code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the cells that hold code."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def pictures(notebook: dict[str, Any]) -> list[bytes]:
    """Returns the pictures among the outputs, as PNG."""
    shown = [output.get("data", {}) for cell in code(notebook) for output in cell["outputs"]]
    return [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]


def main() -> None:
    """Runs all cells in the folder of the project, and keeps what they printed and drew."""
    import nbformat  # noqa: PLC0415 - an extra that only this needs
    from nbclient import NotebookClient  # noqa: PLC0415 - as above

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, record_timing=False, resources={"metadata": {"path": str(ROOT)}}).execute()
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    nbformat.write(notebook, NOTEBOOK)
    PICTURE.write_bytes(pictures(json.loads(NOTEBOOK.read_text()))[0])


if __name__ == "__main__":
    main()
