"""InstaHide itself: the encryption, its random streams, and the algebra of the Mersenne Twister."""
