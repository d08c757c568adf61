"""Sweeps: methods x budgets x tasks x lengths x seeds, measured sample by sample into the table `samples`, resumable at any moment.

`plan.py` says what to measure, `shared.py` reads each context once for all of them, `measure.py` and `text.py` make the rows, `drive.py`
runs a plan here and `cluster.py` on Ray, `points.py` turns rows into points with intervals.
"""
