"""`compyute bench parallel`: processes that share a batch, and the prediction for networks."""

import pytest

from compyute_transformer.bench.parallel import NETWORKS, _fit, bench_parallel, predicted


def test_the_prediction_is_the_formula() -> None:
    assert predicted(1.0, 1e6, 1, 1e-3, 1e9) == 1.0
    assert predicted(1.0, 1e6, 4, 1e-3, 1e9) == pytest.approx(0.25 + 4e-3 + 1.5e-3)
    # more processes than the work is worth: latency grows, nothing else falls
    assert predicted(1e-4, 1e6, 1024, 1e-3, 1e9) > predicted(1e-4, 1e6, 2, 1e-3, 1e9)


def test_one_and_two_processes_are_timed_and_compared() -> None:
    report = bench_parallel("nano", (1, 2), steps=2, rounds=1)
    by_name = {(result.what, result.mode): result for result in report.results}
    assert by_name["step", "1 process"].value > 0
    assert by_name["bytes sent by each", "1 process"].value == 0
    assert by_name["bytes sent by each", "2 processes"].value > 0
    assert by_name["efficiency on the same cores", "1 process"].value == pytest.approx(100.0)
    moments = [by_name["optimizer's memory of process 0", mode].value for mode in ("1 process", "2 processes")]
    assert moments[1] == pytest.approx(moments[0] / 2, rel=0.05)
    assert by_name["wait for sums", "2 processes"].value > 0
    assert by_name["overlap", "2 processes"].value <= 100
    for network in (*NETWORKS, "this machine"):
        step, times = by_name["step", "1 process"].value, by_name[f"predicted: {network}", "8 processes"].value
        assert step / 8 < times
        assert (f"predicted: {network}", "16 processes") not in by_name, "a batch of 12 has no 16 leaves"
        assert 0 < by_name[f"predicted efficiency, the batch grows: {network}", "1024 processes"].value < 100


def test_latency_and_bandwidth_are_those_of_the_messages() -> None:
    messages = [(count, 2e-6 + count / 5e9) for count in (8, 2**15, 2**19, 2**23)]
    assert _fit([messages, messages]) == pytest.approx((2e-6, 5e9))
    assert _fit([]) is None
