"""Walks the catalog: names agree, manual pages are whole and their examples run, the document is fresh."""

from __future__ import annotations

import doctest
import importlib.util
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.data import Chunk, Data
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.rewrite.catalog import Catalog, load_pipelines
from otgraph.rewrite.contract import Context, Pass
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.manual import SECTIONS, manual_page
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.rewrite.program_text import program_text
from otgraph.transport.coupling import Coupling
from passes import CATALOG, PIPELINES

ROOT = Path(__file__).resolve().parents[2]
CATALOG = Catalog(CATALOG)


def example(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def inputs(**tensors: torch.Tensor) -> Data:
    return Data((Chunk({name: tensor.numpy() for name, tensor in tensors.items()}),))


def rewrite(pipeline: str, graph: Graph, **context: Any) -> Graph:
    return PassManager(parse_pipeline(pipeline, CATALOG)).run(graph, Context(**context)).graph


NAMES = {
    "Coupling": Coupling,
    "capture": capture,
    "example": example,
    "inputs": inputs,
    "nn": nn,
    "np": np,
    "program_text": program_text,
    "rewrite": rewrite,
    "torch": torch,
}
"""What the examples of manual pages may use."""


def run_example(text: str, name: str) -> doctest.TestResults:
    """Run the doctest of a manual page; white space is free, so that long program lines may be wrapped."""
    test = doctest.DocTestParser().get_doctest(text, dict(NAMES), name, None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    torch.manual_seed(0)
    return runner.run(test)


@pytest.mark.parametrize("name", CATALOG)
def test_names_agree(name: str) -> None:
    kind = CATALOG[name]
    snake = name.replace("-", "_")
    assert kind.name == name
    assert kind.__name__ == "".join(word.capitalize() for word in name.split("-"))
    assert kind.__module__ == f"passes.{snake}"
    assert (ROOT / "passes" / f"{snake}.py").is_file()


@pytest.mark.parametrize("name", CATALOG)
def test_a_pass_is_a_frozen_final_dataclass_whose_text_reads_back(name: str) -> None:
    kind = CATALOG[name]
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert getattr(kind, "__final__", False), f"{name}: decorate it with @final"
    if all(
        field.default is not field.default_factory for field in fields(kind)
    ):  # every option has a default
        default = kind()
        assert parse_pipeline(str(default), CATALOG) == (default,)


@pytest.mark.parametrize("name", CATALOG)
def test_the_manual_page_is_whole(name: str) -> None:
    page = manual_page(CATALOG[name])
    assert page.summary.endswith(".") and len(page.summary) <= 150
    assert tuple(page.sections) == SECTIONS
    assert all(page.sections.values())
    for option in page.options:
        assert option.name in page.sections["Options"], f"{name}: option {option.name} is not explained"


@pytest.mark.parametrize("name", CATALOG)
def test_the_example_of_the_manual_page_runs(name: str) -> None:
    text = manual_page(CATALOG[name]).sections["Before and after"]
    assert f'rewrite("{name}' in text
    assert run_example(text, name).failed == 0


def test_a_wrong_example_is_noticed() -> None:
    text = ">>> print(program_text(capture(nn.ReLU(), example(2, 3))))\ninput input_1\nreturn input_1"
    assert run_example(text, "wrong").failed == 1


@pytest.mark.parametrize("name", PIPELINES)
def test_named_pipelines_parse(name: str) -> None:
    steps = parse_pipeline(name, CATALOG, load_pipelines())
    assert steps and all(isinstance(step, Pass) for step in steps)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "tools" / "generate_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_document_is_fresh() -> None:
    written = (ROOT / "passes" / "README.md").read_text(encoding="utf-8")
    assert written == generator().render(), "run: python tools/generate_docs.py"
