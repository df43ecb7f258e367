"""Pipeline text: round trip, and every way of writing it wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otgraph.errors import PipelineError
from otgraph.rewrite.contract import AnalysisPass, Context, Pass, TransformPass
from otgraph.rewrite.pipeline import format_pipeline, parse_pipeline
from otgraph.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class EveryType(TransformPass):
    name: ClassVar[str] = "every-type"
    keep_share: float = 0.5
    count: int = 1
    deep: bool = False
    pattern: str = "conv*"
    dims: Literal["all", "inner"] = "all"
    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)
    maybe: float | None = None
    title: str | None = None

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Needs(AnalysisPass):
    name: ClassVar[str] = "needs"
    keep: float

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError("option 'keep' must lie in (0, 1]")

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Nothing."""


CATALOG: dict[str, type[Pass]] = {"every-type": EveryType, "needs": Needs}

numbers = st.floats(allow_nan=False)
every = st.builds(
    EveryType,
    keep_share=numbers,
    count=st.integers(),
    deep=st.booleans(),
    pattern=st.text(),
    dims=st.sampled_from(["all", "inner"]),
    names=st.lists(st.text(), max_size=3).map(tuple),
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
    maybe=st.none() | numbers,
    title=st.none() | st.text() | st.sampled_from(["none", "", "\\", '"', "a b", "]"]),
)
needs = st.builds(Needs, keep=st.floats(0.01, 1.0))


@given(st.lists(every | needs, min_size=1, max_size=3).map(tuple))
def test_text_reads_back_to_the_same_passes(passes: tuple[Pass, ...]) -> None:
    text = format_pipeline(passes)
    assert parse_pipeline(text, CATALOG) == passes
    assert format_pipeline(parse_pipeline(text, CATALOG)) == text


def test_the_text_is_what_one_would_write() -> None:
    assert str(EveryType()) == "every-type"
    assert str(EveryType(keep_share=0.25, dims="inner")) == "every-type{keep-share=0.25 dims=inner}"
    shown = str(EveryType(deep=True, names=("a.*", "b c"), sizes=(), title="none"))
    assert shown == 'every-type{deep=true names=[a.*,"b c"] sizes=[] title="none"}'


def test_white_space_is_free() -> None:
    text = " every-type { keep-share = 0.25\n names = [ a , b ] } ,\n needs{keep=1} "
    assert parse_pipeline(text, CATALOG) == (EveryType(keep_share=0.25, names=("a", "b")), Needs(1.0))


def test_underscores_are_no_dashes_but_are_suggested() -> None:
    with pytest.raises(PipelineError, match=r"has no option 'keep_share'; did you mean 'keep-share'\?"):
        parse_pipeline("every-type{keep_share=0.5}", CATALOG)


def test_a_named_pipeline_stands_for_its_passes() -> None:
    named = {"both": "needs{keep=0.5},every-type"}
    assert parse_pipeline("both,needs{keep=1}", CATALOG, named) == (Needs(0.5), EveryType(), Needs(1.0))


WRONG = {
    "evry-type": "pipeline, column 1: no pass is called 'evry-type'; did you mean 'every-type'?",
    "zzz": "pipeline, column 1: no pass is called 'zzz'; there is: every-type, needs",
    "": "pipeline, column 1: expected the name of a pass, found the end",
    "needs{keep=1},": "pipeline, column 15: expected the name of a pass, found the end",
    "needs{keep=1": "pipeline, column 6: this '{' is never closed; add '}'",
    "needs}": "pipeline, column 6: expected ',' or '{' or the end, found '}'",
    "needs{keep=1}}": "pipeline, column 14: expected ',' or '{' or the end, found '}'",
    "needs{=1}": "pipeline, column 7: expected an option or '}', found '='",
    "needs{keep}": "pipeline, column 11: expected '=' after 'keep', found '}'",
    "needs{keep=}": "pipeline, column 12: expected a value, found '}'",
    "needs{kep=1}": "pipeline, column 7: needs: has no option 'kep'; did you mean 'keep'?",
    "needs": "pipeline, column 1: needs: needs option 'keep'",
    "needs{keep=1 keep=1}": "pipeline, column 14: needs: option 'keep' is given twice; keep one",
    "needs{keep=half}": "pipeline, column 7: needs: option 'keep' is a number, not half",
    "needs{keep=2}": "pipeline, column 1: needs: option 'keep' must lie in (0, 1]",
    "every-type{count=1.5}": "pipeline, column 12: every-type: option 'count' is a whole number, not 1.5",
    'every-type{count="1"}': "pipeline, column 12: every-type: option 'count' is a whole number, not \"1\"",
    "every-type{deep=yes}": "pipeline, column 12: every-type: option 'deep' is true or false, not yes",
    "every-type{dims=iner}": (
        "pipeline, column 12: every-type: option 'dims' is one of all, inner, not iner; did you mean 'inner'?"
    ),
    "every-type{names=a}": (
        "pipeline, column 12: every-type: option 'names' is a list, each a text, written [a,b]; not a"
    ),
    "every-type{count=[1]}": "pipeline, column 12: every-type: option 'count' is a whole number, not a list",
    "every-type{names=[a b]}": "pipeline, column 21: expected ',' or ']', found 'b'",
    "every-type{maybe=x}": "pipeline, column 12: every-type: option 'maybe' is a number or none, not x",
    'every-type{pattern="x}': "pipeline, column 20: this quotation mark is never closed; add '\"'",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said_with_its_place(text: str) -> None:
    with pytest.raises(PipelineError) as caught:
        parse_pipeline(text, CATALOG)
    assert str(caught.value) == WRONG[text]
