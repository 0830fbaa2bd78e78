"""Atomic files, the cache folder and its downloads, and checks of paths, memory and disks."""
