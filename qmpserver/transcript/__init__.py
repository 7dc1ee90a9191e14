"""Conversations with a QMP server as text: the format, recording, comparing and replaying.

Tools and the stand-in share this package. It imports nothing of theirs, and no server.
"""
