"""The numbers that jitter is made of."""

from __future__ import annotations

import multiprocessing
import random

from resilience_core import Retry
from resilience_core._clock import CHANCE


def test_the_numbers_of_a_program_that_seeds_them_are_neither_used_nor_disturbed() -> None:
    state = random.getstate()
    try:
        random.seed(7)
        seeded = random.getstate()
        first = [CHANCE.random() for _ in range(3)]
        assert random.getstate() == seeded
        random.seed(7)
        assert [CHANCE.random() for _ in range(3)] != first, "two processes that seed alike wait alike"
        assert Retry(on=OSError).chance is CHANCE
    finally:
        random.setstate(state)


def test_a_child_of_a_fork_draws_other_numbers_than_its_parent() -> None:
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    child = fork.Process(target=lambda: theirs.send(CHANCE.random()))
    child.start()
    drawn = ours.recv()
    child.join()
    assert drawn != CHANCE.random()
