"""A challenge and its two halves: the release, which is published, and the secret, which the organiser keeps."""
