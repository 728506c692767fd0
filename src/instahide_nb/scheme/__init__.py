"""InstaHide itself: how images become encryptions, and the random streams that decide it."""
