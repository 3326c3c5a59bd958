"""Executes the tutorial, and stores it with its outputs: `python -m tests.tutorial`."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

PATH = Path(__file__).parents[1] / "examples" / "tutorial.ipynb"


def executed(folder):
    """Returns the tutorial as its execution in a folder leaves it.

    Raises:
      CellExecutionError: a cell raises an error.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(PATH, 4)
    # As a reader's kernel: no flags of tests, and the package of this checkout.
    variables = {"PYTHONPATH": str(PATH.parents[1]), "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": ""}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if value})
    for name, value in variables.items():
        if not value:
            os.environ.pop(name, None)
    try:
        resources = {"metadata": {"path": str(folder)}}
        return NotebookClient(notebook, timeout=1800, resources=resources).execute()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def stored(notebook):
    """Returns the text of the notebook's file: no times, and images in one line each."""
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] != "code":
            continue
        # What libraries warn of differs by machine.
        cell["outputs"] = _joined([o for o in cell["outputs"] if o.get("name") != "stderr"])
        for output in cell["outputs"]:
            output.get("data", {}).pop("text/html", None)
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _joined(outputs):
    """Joins what a cell prints in several parts, whose number differs by the time it takes."""
    found = []
    for output in outputs:
        output = dict(output)
        if output["output_type"] == "stream":
            text = output["text"]
            output["text"] = text if isinstance(text, str) else "".join(text)
            if found and found[-1]["output_type"] == "stream":
                found[-1]["text"] += output["text"]
                continue
        found.append(output)
    return found


def main():
    """Executes the tutorial and replaces its file."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        text = stored(executed(folder))
    beside = PATH.with_suffix(".part")
    beside.write_text(text)
    beside.replace(PATH)
    print(f"{PATH}: executed in {time.monotonic() - began:.0f} s, {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
