"""What puts the two packages together: command line, deletion desk, comparisons, demo.

Nothing else in `unlearn` may import `unlearn_eval`.
"""
