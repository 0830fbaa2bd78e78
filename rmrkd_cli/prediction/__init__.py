"""Predict the label maps of images and videos, and draw overlays."""
