"""Check which of the packages that rmrkd needs are installed, and install the missing ones.

No module here imports a third-party package at its top, so it can explain a broken installation.
"""
