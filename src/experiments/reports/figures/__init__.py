"""The figures of runs and sweeps, drawn from plain arrays: each function returns a Matplotlib figure.

Matplotlib is imported when the first figure is drawn; pyplot, with its global state, never is.
"""
