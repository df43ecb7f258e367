"""Launching by CUDA graph where a launch fails, on a stand-in of the CUDA runtime."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from otgraph.engines.tensorrt.launcher import Launcher
from otgraph.errors import ModelError


def context(cuda: Any, answers: list[bool], **more: Any) -> Any:
    """Whose launches succeed or fail as ``answers`` say."""

    def execute(stream: int) -> bool:
        answer = answers.pop(0)
        if answer:
            cuda.put(lambda: None)
        return answer

    return SimpleNamespace(execute_async_v3=execute, **more)


def test_a_launch_that_fails_leaves_no_capture_behind(fake_cuda: Callable[..., Any]) -> None:
    cuda = fake_cuda()
    answers = [True, False, True, True]
    launcher = Launcher(cuda, context(cuda, answers), "net.engine", "CUDA graph")
    with pytest.raises(ModelError, match=r"net\.engine: TensorRT cannot run it with these inputs"):
        launcher.enqueue()
    assert cuda.captured is None
    launcher.enqueue()  # and the next one works
    launcher.synchronize()
    assert cuda.log == ["capture"] and not answers


def test_what_cannot_be_captured_is_not_tried(fake_cuda: Callable[..., Any]) -> None:
    cuda = fake_cuda()
    made = context(cuda, [True], is_stream_capturable=lambda stream: False)
    with pytest.raises(ModelError, match=r"net\.engine: TensorRT cannot .*; leave --cuda-graph out"):
        Launcher(cuda, made, "net.engine", "CUDA graph").enqueue()
    assert cuda.captured is None and cuda.log == []


def test_closing_gives_everything_back(fake_cuda: Callable[..., Any]) -> None:
    cuda = fake_cuda()
    launcher = Launcher(cuda, context(cuda, [True, True]), "net.engine", "CUDA graph")
    launcher.enqueue()
    assert len(cuda.live) == 4
    launcher.close()
    assert not cuda.live
