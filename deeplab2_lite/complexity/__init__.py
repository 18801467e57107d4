"""What networks cost: parameters, multiply-adds and activation memory, beside the paper's tables.

`counting.complexity(config)` counts an experiment's network, `comparison.measure(row)` one of the paper's.
"""
