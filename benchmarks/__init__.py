"""Benchmarks: ours and a peer on the same work, in turn, in one run.

`make bench` and `make bench-peers` run them and rewrite docs/performance.md. Top down: `data`,
`remote`, `inference` and `train` say what is compared, `ours` and `peers` hold one side each,
`rows` lets the sides take turns, `worker` and `serve` are the two ends of the pipe to the process
that does a side's work. Not tests: nothing here fails because a machine is slow.
"""
