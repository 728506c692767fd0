"""Where images come from: photographs, crops with enough key points, and public data sets."""
