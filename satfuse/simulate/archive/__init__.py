"""A simulated archive in the official formats, with STAC items and known truth."""

from satfuse.simulate.archive.make import Archive, ArchiveRecipe, make_archive, open_archive

__all__ = ["Archive", "ArchiveRecipe", "make_archive", "open_archive"]
