"""Manual pages are read from docstrings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from otgraph.rewrite.contract import Context, TransformPass
from otgraph.rewrite.manual import OptionPage, manual_page
from otgraph.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class Sample(TransformPass):
    """Does one thing
    on two lines.

    What it does
        First line.
          Indented more.

        Second paragraph.

    Options
        ``keep-share``: how much stays.
    """

    name: ClassVar[str] = "sample"
    keep_share: float
    dims: Literal["all", "inner"] = "all"

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Nothing."""


def test_summary_sections_and_options() -> None:
    page = manual_page(Sample)
    assert page.summary == "Does one thing on two lines."
    assert page.sections == {
        "What it does": "First line.\n  Indented more.\n\nSecond paragraph.",
        "Options": "``keep-share``: how much stays.",
    }
    assert (page.name, page.kind, page.exactness) == ("sample", "transform", "exact")
    assert page.options == (
        OptionPage("keep-share", "a number", None),
        OptionPage("dims", "one of all, inner", "all"),
    )
