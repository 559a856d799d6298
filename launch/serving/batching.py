"""One worker thread runs the model over requests that wait together: a bounded queue, and batches made as they come."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from launch.serving.errors import Refused, backend_error, overloaded, unhealthy

TIDY_EVERY_S = 5.0

logger = logging.getLogger(__name__)


class Job(Protocol):
    """What a request asks of the model."""

    @property
    def size(self) -> int:
        """The number of its texts."""


@dataclass(frozen=True)
class Waiting:
    """A job and where its answer goes."""

    job: Job
    answer: asyncio.Future[Any]
    deadline: float  # of the loop's clock


class Batcher:
    """Runs jobs in batches: all that wait when the model is free, in their order, up to `max_batch` texts.

    `run` maps jobs to their answers, in their order; it is called by one thread, so the model runs once at a time. If
    it fails, every job of the batch runs again by itself: an error reaches the request alone that causes it. A job that
    would not be answered in time, if its batch took as long as the one before, is refused rather than run: else a
    server with too many requests would work on answers that nobody waits for. `tidy` is called by the same thread every
    TIDY_EVERY_S, after a batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        max_queue: int,
        max_batch: int,
        timeout_s: float,
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        self.run, self.tidy = run, tidy
        self.max_queue, self.max_batch, self.timeout_s = max_queue, max_batch, timeout_s
        self._queue: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None
        self._batch_s = 0.0  # how long the last batch took

    def start(self) -> None:
        """Start to take jobs. It is called inside the event loop."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Stop taking jobs, and refuse those that wait."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.answer.done():
                waiting.answer.set_exception(unhealthy())
        self._pool.shutdown()

    @property
    def is_healthy(self) -> bool:
        """Whether jobs are taken and answered."""
        return self._task is not None and not self._task.done()

    async def submit(self, job: Job) -> Any:
        """Wait for the answer to a job. Raises `Refused` if the queue is full, or if there is no answer in time."""
        if not self.is_healthy:
            raise unhealthy()
        if len(self._queue) >= self.max_queue:
            raise overloaded(429, f"{self.max_queue} requests are waiting: try again later")
        loop = asyncio.get_running_loop()
        waiting = Waiting(job, loop.create_future(), loop.time() + self.timeout_s)
        self._queue.append(waiting)
        self._arrived.set()
        try:
            return await asyncio.wait_for(waiting.answer, self.timeout_s)
        except asyncio.TimeoutError:
            raise self._late() from None

    def _late(self) -> Refused:
        return overloaded(503, f"no answer within {self.timeout_s:g} s: try again later")

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        tidied = loop.time()
        while True:
            await self._arrived.wait()
            begin = loop.time()
            batch = self._next_batch(begin + min(self._batch_s, self.timeout_s / 2))
            if not batch:
                self._arrived.clear()
                continue
            answers = await loop.run_in_executor(self._pool, self._answers, [waiting.job for waiting in batch])
            self._batch_s = loop.time() - begin
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.answer.done():  # nobody waits for it any more
                    continue
                if isinstance(answer, Refused):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)
            if loop.time() - tidied > TIDY_EVERY_S:
                await loop.run_in_executor(self._pool, self.tidy)
                tidied = loop.time()

    def _next_batch(self, expected_end: float) -> list[Waiting]:
        """The jobs that wait; the first one whatever its size. Those that end too late are refused."""
        batch: list[Waiting] = []
        size = 0
        while self._queue and (not batch or size + self._queue[0].job.size <= self.max_batch):
            waiting = self._queue.popleft()
            if waiting.answer.done():  # given up
                continue
            if waiting.deadline < expected_end:
                waiting.answer.set_exception(self._late())
                continue
            batch.append(waiting)
            size += waiting.job.size
        return batch

    def _answers(self, jobs: Sequence[Job]) -> Sequence[Any]:
        try:
            return self.run(jobs)
        except Exception as error:
            if len(jobs) > 1:
                return [self._answers([job])[0] for job in jobs]
            if isinstance(error, Refused):
                return [error]
            # Its message may quote a text: only its type and its place are logged.
            place = "".join(traceback.format_tb(error.__traceback__)[-1:]).strip().splitlines()[:1]
            logger.error("a request has failed: %s %s", type(error).__name__, " ".join(place))
            return [backend_error()]
