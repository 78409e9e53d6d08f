"""Blocks of metadata that files of several formats contain: EXIF, Photoshop's resources, XMP."""
