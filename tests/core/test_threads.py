"""Blocks cover everything once, whatever the number of threads."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from instahide_nb.core.threads import in_blocks, thread_count


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


def child(queue: Any) -> None:
    done: list[int] = []
    in_blocks(lambda low, high: done.extend(range(low, high)), 10, block=1)
    queue.put(sorted(done))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    in_blocks(lambda low, high: None, 10, block=1)  # the parent has its threads now
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    process = fork.Process(target=child, args=(queue,))
    process.start()
    try:
        assert queue.get(timeout=60) == list(range(10))
    finally:
        process.kill()
        process.join()
