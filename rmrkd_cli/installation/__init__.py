"""Packages that rmrkd needs: which are installed, which are missing, and how to install them.

Nothing here imports a third-party package at its top, so that a broken installation can still be explained.
"""
