"""Reading the machine's state from text, and from this machine."""

from __future__ import annotations

from otgraph.engines.processor import cpu_model
from otgraph.latency.environment import Snapshot, conditions, environment

STAT = "cpu  100 0 50 800 10 0 0 40 0 0\ncpu0 50 0 25 400 5 0 0 20 0 0\n"


def test_steal_is_the_share_of_ticks_between_two_snapshots() -> None:
    later = "cpu  150 0 50 830 10 0 0 60 0 0\n"
    before, after = Snapshot.parse(STAT), Snapshot.parse(later)
    assert before == Snapshot(total=1000, steal=40)
    assert conditions(before, after, 1.0).steal == 0.2


def test_no_proc_means_unknown_and_not_zero() -> None:
    nothing = Snapshot.parse(None)
    assert conditions(nothing, nothing, 1.0).steal is None


def test_cpu_model_from_cpuinfo() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: Fast Chip 9\nflags\t: a b\n") == "Fast Chip 9"
    assert cpu_model(None)


def test_this_machine_has_a_name_and_versions() -> None:
    here = environment({"engine": "x"}).to_json()
    assert here["cpu"]
    assert here["packages"]["numpy"][0].isdigit()
