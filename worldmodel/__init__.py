"""A frame-wise autoregressive world model: camera poses in, frames out.

Dimension legend, valid in the whole project:
    b batch · f frames · h w latent grid · p tokens per frame (p = h * w) · n tokens · k cached tokens
    a heads · g key/value heads · d head width · m model width · c channels · s denoising steps

A noun has one spelling: a `frame` is pixels, a `latent` is an encoded frame, a `viewpoint` is what the
controls move, a `camera` is a 4x4 transform with intrinsics.

Camera convention: OpenCV axes (x right, y down, z forward), metres and radians. Transforms are named
`target_from_source`, so products read by cancelling neighbours. Intrinsics are fractions of the image
width and height. The world's axes are those of the camera at yaw 0 and pitch 0: y points down.

This file imports nothing, so `worldmodel.types` stays usable without torch.
"""
