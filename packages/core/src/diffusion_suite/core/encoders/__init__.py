"""Frozen encoders of pictures, speech, text and video, and the training of one's own.

The settings (``config.PretrainConfig``) are importable without torch; the rest is imported when first asked
for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion_suite.core.lazy import lazy

if TYPE_CHECKING:
    from diffusion_suite.core.encoders.base import Contract, Encoder, Features
    from diffusion_suite.core.encoders.cache import FeatureCache
    from diffusion_suite.core.encoders.images import ImageEncoder, VideoEncoder
    from diffusion_suite.core.encoders.load import load_encoder
    from diffusion_suite.core.encoders.pictures import find_pictures, read_picture
    from diffusion_suite.core.encoders.speech import SpeechEncoder
    from diffusion_suite.core.encoders.text import TextEncoder

__all__ = [
    "Contract",
    "Encoder",
    "FeatureCache",
    "Features",
    "ImageEncoder",
    "SpeechEncoder",
    "TextEncoder",
    "VideoEncoder",
    "find_pictures",
    "load_encoder",
    "read_picture",
]

_HOMES = {
    "Contract": "base",
    "Encoder": "base",
    "FeatureCache": "cache",
    "Features": "base",
    "ImageEncoder": "images",
    "SpeechEncoder": "speech",
    "TextEncoder": "text",
    "VideoEncoder": "images",
    "find_pictures": "pictures",
    "load_encoder": "load",
    "read_picture": "pictures",
}

__getattr__ = lazy(__name__, _HOMES)
