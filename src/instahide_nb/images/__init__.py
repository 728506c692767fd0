"""Photographs: where they come from, how they are read, which crops of them are kept."""
