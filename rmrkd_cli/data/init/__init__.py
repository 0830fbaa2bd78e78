"""Describe a folder of images and masks as a preset: `rmrkd init`."""
