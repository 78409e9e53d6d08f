"""Blocks of metadata that files of several formats contain, besides EXIF."""
