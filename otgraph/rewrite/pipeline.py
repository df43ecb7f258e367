"""Pipelines as text: ``fold-batch-norm,prune-channels{keep=0.5 dims=inner}`` ⇄ passes.

pipeline := pass ("," pass)*        pass  := name [ "{" option* "}" ]
option   := name "=" value          value := word | "[" [ word ("," word)* ] "]"
word     := characters other than white space , = { } [ ] "   |   '"' any text, \\" and \\\\ escaped '"'
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from otgraph.errors import PipelineError
from otgraph.rewrite.catalog import load_catalog, load_pipelines
from otgraph.rewrite.contract import Pass
from otgraph.rewrite.options import Word, Written, option_names, read_option, required_options, suggest

MOST = 200
"""Passes in one pipeline: each is checked, which takes seconds where the network is large."""

_TOKEN = re.compile(
    r'\s*(?:(?P<mark>[,={}\[\]])|"(?P<text>(?:[^"\\]|\\.)*)"|(?P<word>[^\s,={}\[\]"]+))', re.DOTALL
)


def parse_pipeline(
    text: str,
    catalog: Mapping[str, type[Pass]] | None = None,
    pipelines: Mapping[str, str] | None = None,
) -> tuple[Pass, ...]:
    """Read a pipeline.

    Args:
        catalog: name → pass class; everything installed by default.
        pipelines: named pipelines, whose names may stand in the place of a pass without options; by default
            those that are installed, or none where a catalog is given.

    Raises:
        PipelineError: with the column and, where there is one, the nearest name; or there are more than
            ``MOST`` passes.
    """
    known = load_catalog() if catalog is None else catalog
    named = load_pipelines() if catalog is None and pipelines is None else pipelines or {}
    passes: list[Pass] = []
    for spec in _Parser(text).pipeline():
        if spec.name in named and spec.name not in known and not spec.options:
            passes.extend(parse_pipeline(named[spec.name], known, {}))
        else:
            passes.append(_build(spec, known, named))
    if len(passes) > MOST:
        raise PipelineError(f"pipeline: has {len(passes):,} passes, and {MOST} are the most; take some out")
    return tuple(passes)


def format_pipeline(passes: Sequence[Pass]) -> str:
    """The text that ``parse_pipeline`` reads back to equal passes."""
    return ",".join(map(str, passes))


@dataclass(frozen=True)
class _Option:
    name: str
    written: Written
    column: int


@dataclass(frozen=True)
class _Spec:
    name: str
    options: tuple[_Option, ...]
    column: int


@dataclass(frozen=True)
class _Token:
    kind: str  # the mark itself, "word", "text" or "end"
    text: str
    column: int


def _build(spec: _Spec, known: Mapping[str, type[Pass]], named: Mapping[str, str]) -> Pass:
    if spec.name not in known:
        advice = suggest(spec.name, [*known, *named])
        raise PipelineError(f"pipeline, column {spec.column}: no pass is called '{spec.name}'; {advice}")
    kind = known[spec.name]
    names = option_names(kind)
    values: dict[str, object] = {}
    for option in spec.options:
        where = f"pipeline, column {option.column}: {spec.name}"
        if option.name not in names:
            raise PipelineError(f"{where}: has no option '{option.name}'; {suggest(option.name, names)}")
        if option.name.replace("-", "_") in values:
            raise PipelineError(f"{where}: option '{option.name}' is given twice; keep one")
        try:
            values[option.name.replace("-", "_")] = read_option(kind, option.name, option.written)
        except ValueError as error:
            raise PipelineError(f"{where}: option '{option.name}' {error}") from error
    for name in required_options(kind):
        if name.replace("-", "_") not in values:
            raise PipelineError(f"pipeline, column {spec.column}: {spec.name}: needs option '{name}'")
    try:
        return kind(**values)
    except ValueError as error:
        raise PipelineError(f"pipeline, column {spec.column}: {spec.name}: {error}") from error


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0

    def pipeline(self) -> list[_Spec]:
        specs = [self._pass()]
        while self._accept(","):
            specs.append(self._pass())
        self._expect("end", "',' or '{' or the end")
        return specs

    def _pass(self) -> _Spec:
        name = self._expect("word", "the name of a pass")
        options: list[_Option] = []
        opening = self._accept("{")
        if opening is not None:
            while not self._accept("}"):
                if self._peek.kind == "end":
                    raise PipelineError(
                        f"pipeline, column {opening.column}: this '{{' is never closed; add '}}'"
                    )
                options.append(self._option())
        return _Spec(name.text, tuple(options), name.column)

    def _option(self) -> _Option:
        name = self._expect("word", "an option or '}'")
        self._expect("=", f"'=' after '{name.text}'")
        if not self._accept("["):
            return _Option(name.text, self._word(), name.column)
        words: list[Word] = []
        while not self._accept("]"):
            if words:
                self._expect(",", "',' or ']'")
            words.append(self._word())
        return _Option(name.text, tuple(words), name.column)

    def _word(self) -> Word:
        if self._peek.kind == "text":
            return Word(re.sub(r"\\(.)", r"\1", self._next().text, flags=re.DOTALL), quoted=True)
        return Word(self._expect("word", "a value").text)

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _accept(self, kind: str) -> _Token | None:
        return self._next() if self._peek.kind == kind else None

    def _expect(self, kind: str, wanted: str) -> _Token:
        token = self._peek
        if token.kind != kind:
            found = "the end" if token.kind == "end" else f"'{token.text}'"
            raise PipelineError(f"pipeline, column {token.column}: expected {wanted}, found {found}")
        return self._next()


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            column = len(text) - len(text[at:].lstrip()) + 1
            raise PipelineError(f"pipeline, column {column}: this quotation mark is never closed; add '\"'")
        group = match.lastgroup or ""
        token = match.group(group)
        kind = token if group == "mark" else group
        found.append(_Token(kind, token, match.start(group) + 1 - (group == "text")))
        at = match.end()
    return [*found, _Token("end", "", len(text) + 1)]
