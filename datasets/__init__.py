"""Data sets by name, and directories, for scripts in a checkout: `datasets.load("builtin")`.

The reading itself is part of the package, as installed commands need it too: hyperinit/photos.
"""

from __future__ import annotations

from hyperinit.photos.load import NAMES, load
from hyperinit.photos.photographs import CropSampler, Photo, Photographs, fixed_crops, random_crop

__all__ = ["NAMES", "CropSampler", "Photo", "Photographs", "fixed_crops", "load", "random_crop"]
