"""Benchmarks: each module times our code and a peer on the same work in the same run.

`make bench` runs them and rewrites the tables of docs/performance.md. Not tests: nothing here fails
because a machine is slow.
"""
