"""Blocks cover everything once, whatever the number of threads; threads follow the environment and the quota."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from instahide_nb.core import threads
from instahide_nb.core.threads import in_blocks, one_blas_thread, processor_count, thread_count


@pytest.mark.parametrize("number", ["1", "2", "7"])
def test_every_item_is_done_once_and_errors_are_raised(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", number)
    for count, block in ((0, None), (1, None), (10, 3), (1000, None)):
        done = np.zeros(count, int)

        def kernel(low: int, high: int, done: np.ndarray) -> None:
            done[low:high] += 1

        in_blocks(kernel, count, done, block=block)
        assert (done == 1).all()
    with pytest.raises(ZeroDivisionError):
        in_blocks(lambda low, high: 1 // (low < 5), 10, block=1)


def test_kernels_may_divide_their_block_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    done = np.zeros((20, 20), int)

    def fill(low: int, high: int, row: np.ndarray, value: int) -> None:
        row[low:high] = value

    def rows(low: int, high: int) -> None:
        for i in range(low, high):
            in_blocks(fill, 20, done[i], i + 1, block=3)

    in_blocks(rows, 20, block=1)  # would wait for itself if blocks inside of blocks waited for a thread
    assert (done == np.arange(1, 21)[:, None]).all()


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_threads_are_as_many_as_wished_or_as_the_containers_quota(
    files: dict[str, str], processors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: range(64), raising=False)
    threads._cpu_quota.cache_clear()
    for wish, count in (("5", 5), ("none", processors), ("0", processors)):
        monkeypatch.setenv("NUMBA_NUM_THREADS", wish)
        assert thread_count() == count
    assert processor_count() == processors
    threads._cpu_quota.cache_clear()


def test_blas_is_held_to_one_thread() -> None:
    def in_use() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        with one_blas_thread():
            assert in_use() == {1}
        assert in_use() == {2}


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
