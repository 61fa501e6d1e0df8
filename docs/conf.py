"""The documentation as a site, by Sphinx: make docs. The pages are README.md, docs/*.md, and those filled below."""

import re
from collections.abc import Iterator
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
project = "dreamfusion"
html_title = "dreamfusion: text to 3D by score distillation"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["first_steps.ipynb"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?:\.\./|conf/|dreamfusion/|sweeps/|tests/)[^)\s]*\)")


def setup(app: Sphinx) -> None:
    app.connect("source-read", _read)
    app.connect("include-read", lambda app, path, document, source: _read(app, document, source))


def _read(app: Sphinx, document: str, source: list[str]) -> None:
    """Keep the text of links to files that the site does not have, and fill the page of the settings."""
    source[0] = LINK.sub(r"\1", source[0])
    if document == "settings":
        source[0] += "\n".join(_settings())


def _settings() -> Iterator[str]:
    """Each file of conf/ with its comments, by group."""
    conf = ROOT / "conf"
    for path in sorted(conf.rglob("*.yaml"), key=lambda path: (path.parent != conf, path)):
        group = path.parent.relative_to(conf)
        if group.parts[:1] == ("hydra",):
            continue
        if path == min(path.parent.glob("*.yaml")):
            yield f"\n## {'All' if path.parent == conf else group}\n"
        title = f"{group}={path.stem}" if path.parent != conf else path.name
        yield f"\n### {title}\n\n```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```"
