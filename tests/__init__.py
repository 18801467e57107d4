"""A package, since others install a `tests` of their own, which would be taken for this one."""
