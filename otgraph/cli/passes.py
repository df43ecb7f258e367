"""``otgraph passes``: the catalog, from the docstrings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from otgraph.cli import options as opt
from otgraph.cli.lazy import manual, pass_catalog, pass_options
from otgraph.cli.output import Output, plain_table
from otgraph.errors import PipelineError

if TYPE_CHECKING:
    from rich.table import Table

    from otgraph.rewrite.manual import Page

Name = Annotated[str | None, typer.Argument(metavar="[PASS]", help="Show the manual page of one pass.")]


def passes(*, name: Name = None, json: opt.Json = False) -> None:
    """List the passes and named pipelines that are installed, or show the manual page of PASS.

    Example: otgraph passes fold-batch-norm
    """
    out = Output(json)
    catalog = pass_catalog.load_catalog()
    if name is not None:
        if name not in catalog:
            raise PipelineError(f"passes: no pass is called '{name}'; {pass_options.suggest(name, catalog)}")
        page = manual.manual_page(catalog[name])
        _say_page(out, page)
        out.result(_page(page))
        return
    pages = [manual.manual_page(catalog[each]) for each in catalog]
    pipelines = pass_catalog.load_pipelines()
    out.say(_table(pages))
    _say_pipelines(out, pipelines)
    out.result({"command": "passes", "passes": [_page(page) for page in pages], "pipelines": pipelines})


def _table(pages: list[Page]) -> Table:
    table = plain_table("pass", "kind", "claim", "")
    for page in pages:
        table.add_row(page.name, page.kind, page.exactness if page.kind == "transform" else "", page.summary)
    return table


def _say_pipelines(out: Output, pipelines: Mapping[str, str]) -> None:
    out.say("")
    out.say("pipelines (a name stands for its passes):")
    for name, text in pipelines.items():
        out.say(f"  {name}: {text}")


def _say_page(out: Output, page: Page) -> None:
    out.say(Text(page.name, style="bold"))
    out.say(page.summary)
    for title, text in page.sections.items():
        out.say("")
        out.say(Text(title, style="bold"))
        out.say("\n".join(f"  {line}".rstrip().replace("``", "`") for line in text.splitlines()))
    for option in page.options:
        default = "required" if option.default is None else f"default {option.default}"
        out.say(f"  {option.name}: {option.type} ({default})")


def _page(page: Page) -> dict[str, Any]:
    return {**vars(page), "options": [vars(option) for option in page.options]}
