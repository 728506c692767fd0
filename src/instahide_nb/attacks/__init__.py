"""Attacks: from a release and public images back to the private images."""
