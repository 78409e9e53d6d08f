"""Metadata that files of several formats contain: EXIF, Photoshop, XMP, numbers of TIFF tags."""
