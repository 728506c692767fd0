"""A challenge: building one, the public half (release) and the secret half."""
