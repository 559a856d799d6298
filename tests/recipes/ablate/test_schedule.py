"""Which jobs are started when, and what becomes of them: with processes that only exist in these tests."""

from __future__ import annotations

import signal

import pytest

from engines.distributed import preemption
from engines.distributed.preemption import REQUEUE
from recipes.ablate import schedule
from recipes.ablate.configurations import Configuration, Job
from recipes.ablate.schedule import Outcome, Scheduler

JOBS = [Job(Configuration.of(name, ()), 1) for name in "abcd"]


class Fake:
    """A process that ends after some polls with a status."""

    def __init__(self, status: int, polls: int = 1):
        self.status, self.polls, self.stopped, self.killed = status, polls, False, False

    def poll(self):
        self.polls -= 1
        return REQUEUE if self.stopped else self.status if self.polls < 0 else None

    def stop(self):
        self.stopped = True

    def kill(self):
        self.killed = True

    def error(self):
        return "learning_rate is wrong"


class Stand:
    """A list of jobs, with the statuses of their processes in the order in which these are started."""

    def __init__(self, statuses: dict[Job, list[int]], polls: int = 1):
        self.queue, self.statuses, self.polls = list(statuses), statuses, polls
        self.started: list[tuple[Job, int]] = []
        self.outcomes: dict[Job, Outcome] = {}
        self.processes: list[Fake] = []
        self.most = 0

    def next_job(self):
        return self.queue.pop(0) if self.queue else None

    def ended(self, job, outcome):
        self.outcomes[job] = outcome

    def start(self, job, slot):
        self.started.append((job, slot))
        self.processes.append(Fake(self.statuses[job].pop(0), self.polls))
        return self.processes[-1]

    def is_finished(self, job):
        return job not in self.outcomes

    def watch(self, running):
        self.most = max(self.most, len(running))

    def run(self, **options):
        Scheduler(self, self.start, is_finished=self.is_finished, watch=self.watch, **options).run()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(schedule, "POLL_S", 0.001)


def test_jobs_run_in_their_order_in_free_slots():
    stand = Stand({job: [0] for job in JOBS}, polls=2)
    stand.run(slots=2, retries=0)
    assert [job for job, _ in stand.started] == JOBS
    assert {slot for _, slot in stand.started} == {0, 1}
    assert stand.most == 2
    assert [stand.outcomes[job].status for job in JOBS] == ["finished"] * 4


def test_a_job_that_fails_fails_alone_and_is_not_tried_again():
    stand = Stand({JOBS[0]: [0], JOBS[1]: [1], JOBS[2]: [0]})
    stand.run(slots=1, retries=3)
    assert [job for job, _ in stand.started] == JOBS[:3]
    assert (stand.outcomes[JOBS[1]].status, stand.outcomes[JOBS[1]].error) == ("failed", "learning_rate is wrong")
    assert stand.outcomes[JOBS[2]].status == "finished"


def test_a_job_that_is_killed_is_resumed_in_its_slot_as_often_as_is_allowed():
    stand = Stand({JOBS[0]: [-9, 0], JOBS[1]: [-9, REQUEUE, -9], JOBS[2]: [REQUEUE, REQUEUE, REQUEUE]})
    stand.run(slots=1, retries=2)
    assert [job for job, _ in stand.started] == [JOBS[0]] * 2 + [JOBS[1]] * 3 + [JOBS[2]] * 3
    assert stand.outcomes[JOBS[0]].status == "finished"
    assert stand.outcomes[JOBS[1]].status == "failed"
    assert stand.outcomes[JOBS[1]].error == "killed by SIGKILL (out of memory?)"
    assert stand.outcomes[JOBS[2]].status == "stopped"


def test_an_exit_status_of_0_without_a_summary_is_a_failure():
    stand = Stand({JOBS[0]: [0]})
    stand.is_finished = lambda job: False
    stand.run(slots=1, retries=1)
    assert stand.outcomes[JOBS[0]].status == "failed"


def test_a_signal_stops_all_that_run_and_starts_no_more():
    stand = Stand({job: [0] for job in JOBS}, polls=10**9)

    def watch(running):
        if len(stand.started) == 2:
            signal.raise_signal(signal.SIGTERM)

    stand.watch = watch
    with preemption.handle_signals():
        preemption.defer_signals()
        stand.run(slots=2, retries=5)
        assert preemption.requested()
    assert [process.stopped for process in stand.processes] == [True, True]
    assert [stand.outcomes[job].status for job in JOBS[:2]] == ["stopped", "stopped"]
    assert len(stand.started) == 2


def test_an_error_kills_what_runs():
    stand = Stand({job: [0] for job in JOBS}, polls=10**9)

    def watch(running):
        raise KeyboardInterrupt

    stand.watch = watch
    with pytest.raises(KeyboardInterrupt):
        stand.run(slots=2, retries=0)
    assert [process.killed for process in stand.processes] == [True, True]
