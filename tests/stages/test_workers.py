"""Jobs run in processes of their own; what they report and return arrives, and failures are told."""

import os
import signal
import time

import pytest

from t2.stages.workers import JobFailed, run_jobs


def test_results_come_in_the_order_of_the_jobs_and_reports_arrive() -> None:
    def job(number: int):
        def run(report) -> tuple[int, int]:
            time.sleep(0.05 * (3 - number))
            report({"number": number})
            return number, os.getpid()

        return run

    heard: list[tuple[str, int]] = []
    results = run_jobs(
        {str(number): job(number) for number in range(4)},
        at_once=2,
        on_report=lambda name, row: heard.append((name, row["number"])),
    )
    assert [value[0] for value in results.values()] == [0, 1, 2, 3]
    assert len({value[1] for value in results.values()} | {os.getpid()}) == 5
    assert sorted(heard) == [(str(number), number) for number in range(4)]


def test_a_failing_job_is_named_with_its_traceback_and_ends_the_others(tmp_path) -> None:
    def fail(report) -> None:
        time.sleep(0.2)
        raise KeyError("lost")

    def linger(report) -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)

    with pytest.raises(JobFailed, match=r"(?s)bad failed.*KeyError: 'lost'"):
        run_jobs({"bad": fail, "long": linger}, at_once=2, on_report=lambda *_: None)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_killed_worker_is_told_apart_from_a_finished_one() -> None:
    with pytest.raises(JobFailed, match="SIGKILL"):
        run_jobs({"killed": lambda report: os.kill(os.getpid(), signal.SIGKILL)}, at_once=1, on_report=lambda *_: None)
