"""The jobs, from end to end: a file a verb. This room knows everyone and computes nothing.

Nothing is imported here: a verb waits only for what it needs itself.
"""
