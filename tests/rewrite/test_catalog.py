"""The catalog: entry points, laziness, clashes."""

from __future__ import annotations

import pytest

from otgraph.errors import PipelineError
from otgraph.rewrite.catalog import Catalog, load_catalog, load_pipelines, merge


def test_the_built_in_passes_are_found() -> None:
    catalog = load_catalog()
    assert {"fold-batch-norm", "cleanup", "prune-channels"} <= set(catalog)
    assert catalog["fold-batch-norm"].name == "fold-batch-norm"
    assert "apply" in load_pipelines()


def test_a_pass_is_imported_only_when_asked_for() -> None:
    catalog = Catalog({"broken": "no_such_module:Nothing"})
    assert "broken" in catalog
    with pytest.raises(PipelineError, match=r"pass broken: no_such_module:Nothing does not load \(No module"):
        catalog["broken"]


def test_names_must_agree() -> None:
    with pytest.raises(
        PipelineError, match=r"pass other: .* calls itself fold-batch-norm; correct the catalog"
    ):
        Catalog({"other": "passes.fold_batch_norm:FoldBatchNorm"})["other"]


def test_something_else_is_no_pass() -> None:
    with pytest.raises(
        PipelineError, match="pass path: pathlib:Path is no frozen dataclass derived from Pass"
    ):
        Catalog({"path": "pathlib:Path"})["path"]


def test_one_name_from_two_packages_is_an_error() -> None:
    with pytest.raises(
        PipelineError, match="'a' is provided by both one:X and two:Y; uninstall one or rename it"
    ):
        merge([("one:X", {"a": "m:A"}), ("two:Y", {"b": "m:B", "a": "m:C"})])
    assert merge([("one:X", {"a": "1"}), ("two:Y", {"b": "2"})]) == {"a": "1", "b": "2"}
