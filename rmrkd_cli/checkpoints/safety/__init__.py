"""Checks of checkpoint files from unknown authors, made before torch opens them or a network is built from them."""
