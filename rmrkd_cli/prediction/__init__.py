"""Class maps and overlays of anyone's images and videos."""
