"""Build segmentation networks, load their weights, and prepare them for training and inference.

One file for each library: `mmseg.py` (with `mmseg_adapter.py`, `mmseg_loss.py`, and `mmseg_zoo.py`, the URLs of its
ImageNet weights), `torchvision.py`, `smp.py` (with `smp_encoders.py`), `transformers.py`, and `python.py` for a file of
the user. No other file of this package imports the library. `libraries.py` chooses the file, and describes its
functions. `description.py` reads descriptions, `hub.py` fetches files from the Hugging Face hub.

`adapter.py` is what the other packages use of a network: logits, feature maps, losses of the heads. `feature_maps.py`
measures the maps that losses compare, `recorded_maps.py` takes them by the names of modules, `weights.py` loads
checkpoints, `limits.py` bounds configs from unknown authors, `inference.py` folds batch norm and chooses fast kernels.
"""
