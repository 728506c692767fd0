"""InstaHide itself: the encryption, the random streams that decide it, and the Mersenne Twister's algebra."""
