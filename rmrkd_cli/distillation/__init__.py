"""The distiller, and how it is built from a preset."""
