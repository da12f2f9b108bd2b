"""Measured comparisons with named peers: `make bench`. Never part of the tests, whose result must not hang on a clock."""
