"""Engines of the runtime, one file each; a file imports its library only when an engine is opened."""
