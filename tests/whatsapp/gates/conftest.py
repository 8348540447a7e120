"""Fixtures of the tests of gates that a fleet shares."""

from tests.fleet.members import fleets as fleets
