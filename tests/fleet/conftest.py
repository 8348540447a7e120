"""Fixtures of the tests about fleets."""

from tests.fleet.members import fleets as fleets
