"""Batches of waiting requests: none mixed up, an error reaches its own request, queue and time are bounded."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass

import pytest

from launch.serving.batching import Batcher
from launch.serving.errors import Refused


@dataclass(frozen=True)
class Number:
    value: int
    size: int = 1


def run(main):
    return asyncio.run(asyncio.wait_for(main, 30))


async def serve(work, jobs, **options):
    """What each job gets, all submitted at once: an answer or `Refused`."""
    batcher = Batcher(work, **({"max_queue": 100, "max_batch": 8, "timeout_s": 5.0} | options))
    batcher.start()
    try:
        return await asyncio.gather(*(batcher.submit(job) for job in jobs), return_exceptions=True)
    finally:
        await batcher.stop()


def test_every_job_gets_its_own_answer_from_a_batch():
    batches = []

    def work(jobs):
        batches.append([job.value for job in jobs])
        return [job.value * 10 for job in jobs]

    assert run(serve(work, [Number(i) for i in range(50)])) == [i * 10 for i in range(50)]
    assert max(map(len, batches)) == 8
    assert len(batches) < 10
    assert [value for batch in batches for value in batch] == list(range(50)), "first come, first served"


def test_a_batch_is_bounded_by_texts_and_one_job_may_be_larger():
    batches = []

    def work(jobs):
        batches.append([job.size for job in jobs])
        return [0 for _ in jobs]

    run(serve(work, [Number(0, size) for size in (5, 3, 1, 20, 4, 4, 1)]))
    assert batches == [[5, 3], [1], [20], [4, 4], [1]]


def test_an_error_reaches_the_job_alone_that_causes_it_and_no_text_is_logged(caplog):
    def work(jobs):
        if any(job.value == 3 for job in jobs):
            raise RuntimeError("a secret text")
        return [job.value for job in jobs]

    with caplog.at_level(logging.DEBUG):
        answers = run(serve(work, [Number(i) for i in range(8)]))
    assert [answer for answer in answers if isinstance(answer, int)] == [0, 1, 2, 4, 5, 6, 7]
    assert (answers[3].status, answers[3].error_type) == (424, "Backend")
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text + answers[3].message


def test_a_full_queue_refuses_at_once():
    go = threading.Event()

    def work(jobs):
        go.wait(10)
        return [job.value for job in jobs]

    async def main():
        batcher = Batcher(work, max_queue=3, max_batch=1, timeout_s=20.0)
        batcher.start()
        tasks = [asyncio.create_task(batcher.submit(Number(0)))]
        await asyncio.sleep(0.2)  # it runs now
        tasks += [asyncio.create_task(batcher.submit(Number(i))) for i in range(1, 6)]
        await asyncio.sleep(0.2)
        refused = [task.done() for task in tasks]
        go.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.stop()
        return refused, answers

    refused, answers = run(main())
    assert refused == [False] * 4 + [True] * 2
    assert answers[:4] == [0, 1, 2, 3]
    assert {(answer.status, answer.error_type) for answer in answers[4:]} == {(429, "Overloaded")}


def test_late_jobs_are_refused_and_not_run():
    go, ran = threading.Event(), []

    def work(jobs):
        ran.extend(job.value for job in jobs)
        go.wait(10)
        return [job.value for job in jobs]

    async def main():
        batcher = Batcher(work, max_queue=9, max_batch=1, timeout_s=0.5)
        batcher.start()
        answers = await asyncio.gather(*(batcher.submit(Number(i)) for i in range(3)), return_exceptions=True)
        go.set()
        await asyncio.sleep(0.2)
        last = await batcher.submit(Number(9))  # the server goes on
        await batcher.stop()
        return answers, last

    answers, last = run(main())
    assert {(answer.status, answer.error_type) for answer in answers} == {(503, "Overloaded")}
    assert ran == [0, 9]
    assert last == 9


def test_a_job_that_would_be_late_is_refused_before_it_runs():
    async def main():
        batcher = Batcher(lambda jobs: [0 for _ in jobs], max_queue=9, max_batch=9, timeout_s=4.0)
        batcher._batch_s = 3.0  # the batch before
        batcher.start()
        in_time = batcher.submit(Number(0))
        assert await in_time == 0, "within half of the time it is tried, whatever the batch before took"
        batcher.timeout_s, batcher._batch_s = 0.3, 100.0
        slow = asyncio.create_task(batcher.submit(Number(1)))
        assert await slow == 0
        await batcher.stop()
        with pytest.raises(Refused, match="stopping"):
            await batcher.submit(Number(2))
        assert not batcher.is_healthy

    run(main())


def test_waiting_jobs_are_refused_when_the_server_stops():
    go = threading.Event()

    async def main():
        batcher = Batcher(lambda jobs: go.wait(10) and [0], max_queue=9, max_batch=1, timeout_s=9.0)
        batcher.start()
        tasks = [asyncio.create_task(batcher.submit(Number(i))) for i in range(2)]
        await asyncio.sleep(0.2)
        threading.Timer(0.3, go.set).start()
        await batcher.stop()
        return await asyncio.gather(tasks[1], return_exceptions=True)

    [answer] = run(main())
    assert (answer.status, answer.error_type) == (503, "Unhealthy")
