"""What only a GPU can show: ``make gpu``, or ``python -m tests.benchmarks.gpu [part …]``."""
