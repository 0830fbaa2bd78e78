"""Build segmentation networks, load their weights, and prepare them for training and inference.

One file for each library, so far `mmseg.py` (with `mmseg_zoo.py`, the URLs of its ImageNet weights). No other file of
this package imports the library. To add a library, write `networks/LIBRARY.py` with two functions:

    network_config(spec, num_classes) -> dict      the description of a network, plain data, from a preset
    build_network(config, device=...) -> nn.Module  the network, with random initial weights

The other packages use these attributes of a network:

    extract_feat(images)      the backbone's feature maps, one for each stage; images (B, 3, H, W), normalized
    decode_head(features)     logits (B, K, h, w), not resized; `decode_head.conv_seg` is the last convolution
    auxiliary_head            heads used only in training; may be missing
    align_corners, num_classes, decode_head.threshold (of a binary head with one channel)

`feature_maps.py` takes the maps that losses compare, `weights.py` loads checkpoints, `limits.py` bounds configs from
unknown authors, `inference.py` folds batch norm and chooses fast kernels.
"""
