"""Turns a notebook, with its outputs, into Markdown and files of images."""

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple


class Converted(NamedTuple):
    """A notebook as a page.

    Attributes:
      markdown: the text, the code and the outputs.
      images: the content of the images that it shows, by file name.
    """

    markdown: str
    images: dict[str, bytes]


def converted(path: Path) -> Converted:
    """Returns the page of a notebook."""
    parts, images = [], dict[str, bytes]()
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            content: dict[str, Any] = output.get("data", {})
            if "image/png" in content:
                name = f"{path.stem}-{len(images) + 1}.png"
                images[name] = base64.b64decode("".join(content["image/png"]))
                parts.append(f"![What the code above draws]({name})")
            elif "text/markdown" in content:
                parts.append("".join(content["text/markdown"]))
            else:
                shown = "".join(output.get("text", content.get("text/plain", ())))
                parts.append(f"```text\n{shown.rstrip()}\n```")
    return Converted("\n\n".join(parts) + "\n", images)
