"""Write ``passes/README.md`` from the docstrings of the passes; a test compares the two."""

from __future__ import annotations

from pathlib import Path

from otgraph.rewrite.catalog import Catalog
from otgraph.rewrite.manual import SECTIONS, Page, manual_page
from passes import CATALOG, PIPELINES

README = Path(__file__).resolve().parents[1] / "passes" / "README.md"

_HEAD = """# The passes

*Generated from the docstrings by `python tools/generate_docs.py`; do not edit.*

Each pass is one file here and one line of `CATALOG`. Compose them with `otgraph run MODEL -p "…" -o OUT`.
"""


def render() -> str:
    """The whole file."""
    catalog = Catalog(CATALOG)
    pages = [manual_page(catalog[name]) for name in catalog]
    rows = [f"| [`{p.name}`](#{p.name}) | {p.kind} | {_claim(p)} | {p.summary} |" for p in pages]
    table = "\n".join(["| pass | kind | claim | |", "|---|---|---|---|", *rows])
    named = "\n".join(f"- `{name}`: `{text}`" for name, text in PIPELINES.items())
    return (
        "\n".join([_HEAD, table, "", "Named pipelines:", "", named, "", *map(_section, pages)]).rstrip()
        + "\n"
    )


def _claim(page: Page) -> str:
    return page.exactness if page.kind == "transform" else "changes nothing"


def _section(page: Page) -> str:
    parts = [f"## {page.name}", "", page.summary, ""]
    for title in SECTIONS:
        if title == "Options":
            continue
        text = page.sections[title]
        body = f"```pycon\n{text}\n```" if ">>>" in text else text
        parts += [f"**{title}.**" if body is text else f"**{title}.**\n", body, ""]
    parts += ["**Options.**", page.sections["Options"] if not page.options else _options(page), ""]
    return "\n".join(parts)


def _options(page: Page) -> str:
    rows = [
        f"| `{o.name}` | {o.type} | {'required' if o.default is None else f'`{o.default}`'} |"
        for o in page.options
    ]
    table = "\n".join(["", "| option | is | default |", "|---|---|---|", *rows])
    return f"{page.sections['Options']}\n{table}"


if __name__ == "__main__":
    README.write_text(render(), encoding="utf-8")
    print(f"wrote {README}")
