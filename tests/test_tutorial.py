"""The tutorial is stored with its outputs, becomes a page, and runs."""

import importlib.util
import json

import pytest

from tests import tutorial

CONVERTER = tutorial.PATH.parents[1] / "docs" / "notebooks.py"


@pytest.fixture(scope="module")
def code():
    """The cells of code."""
    cells = json.loads(tutorial.PATH.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def notebooks():
    """The module that makes pages of notebooks."""
    spec = importlib.util.spec_from_file_location("notebooks", CONVERTER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tutorial_is_stored_with_small_outputs_in_order(code):
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {
        "display_data",
        "execute_result",
        "stream",
    }
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 8
    text = tutorial.PATH.read_text()
    assert len(text) < 300_000
    assert "/tmp" not in text
    for cell in code:
        assert all(len(line.rstrip("\n")) <= 100 for line in cell["source"])


def test_a_notebook_becomes_markdown_and_files_of_images(notebooks, tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# A title\n", "text"]},
        {
            "cell_type": "code",
            "source": ["draw()"],
            "outputs": [
                {"output_type": "stream", "text": ["one\n", "two\n"]},
                {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo=\n"}},
                {"output_type": "execute_result", "data": {"text/markdown": ["| a |"]}},
                {"output_type": "execute_result", "data": {"text/plain": ["3"]}},
            ],
        },
    ]
    path = tmp_path / "page.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    page = notebooks.converted(path)
    assert page.images == {"page-1.png": b"\x89PNG\r\n\x1a\n"}
    assert page.markdown == "\n\n".join(
        [
            "# A title\ntext",
            "```python\ndraw()\n```",
            "```text\none\ntwo\n```",
            "![What the code above draws](page-1.png)",
            "| a |",
            "```text\n3\n```\n",
        ]
    )


@pytest.mark.slow  # It trains for minutes.
def test_the_tutorial_runs_and_writes_its_pages(code, tmp_path):
    pytest.importorskip("nbclient", reason="needs requirements-notebook.txt")
    pytest.importorskip("ipykernel", reason="needs requirements-notebook.txt")
    found = tutorial.executed(tmp_path)
    cells = [cell for cell in found["cells"] if cell["cell_type"] == "code"]

    def kinds(cells):
        return [
            [sorted(set(o.get("data", {})) - {"text/plain"}) for o in cell["outputs"]]
            for cell in cells
        ]

    again = json.loads(tutorial.stored(found))["cells"]
    assert kinds([cell for cell in again if cell["cell_type"] == "code"]) == kinds(code)
    runs = tmp_path / "runs" / "tutorial"
    for name in ("bat", "memorization", "comparison"):
        assert (runs / name / "report.html").is_file()
    accuracies = {
        method: json.loads((runs / method / "results.json").read_text())["best"]["test"]["pgd20"]
        for method in ("standard", "pgd_at", "bat")
    }
    for method in ("pgd_at", "bat"):
        assert accuracies[method]["interval"][0] > accuracies["standard"]["interval"][1]
    assert len(cells) == len(code)
