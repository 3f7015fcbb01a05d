"""What fscache costs, as ratios to something known: ``make bench``.  How to read it: docs/benchmarks.md."""
