"""Measurements: two things in turn in one run, medians and their ratio. Never a timed test."""
