"""The file formats: each module decodes, and most encode, one of them.

Every decoder takes bytes and returns an `ImageSequence`; every encoder takes an `Image`. They are
looked up in the tables of `imaging.io`.
"""
