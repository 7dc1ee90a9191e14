"""The command line of ``qmpserver``: options in, a running machine or stand-in out.

Only this package reads options, knows the process around the machine, and puts the parts together.
"""
