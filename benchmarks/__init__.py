"""Figures of speed and size, each with its limit or its peer measured in the same run on the same machine (``make bench``)."""
