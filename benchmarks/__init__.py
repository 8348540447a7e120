"""`python -m benchmarks`: this framework against hand-written functions and, where installed, other libraries."""
