"""Blocks cover everything once, whatever the number of threads."""

from __future__ import annotations

import pytest

from instahide_nb.attack.threads import in_blocks, thread_count


@pytest.mark.parametrize("threads", ["1", "2", "7"])
@pytest.mark.parametrize(("count", "block"), [(0, None), (1, None), (10, 3), (1000, None)])
def test_every_item_is_done_once(
    monkeypatch: pytest.MonkeyPatch, threads: str, count: int, block: int | None
) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    done = [0] * count

    def kernel(low: int, high: int, step: int) -> None:
        for i in range(low, high):
            done[i] += step

    in_blocks(kernel, count, 1, block=block)
    assert done == [1] * count


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")

    def kernel(low: int, high: int) -> None:
        if low >= 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_blocks(kernel, 10, block=1)


def test_thread_count_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "5")
    assert thread_count() == 5
    monkeypatch.setenv("NUMBA_NUM_THREADS", "none")
    assert thread_count() >= 1
