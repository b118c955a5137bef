"""What follows from the measured matrices: who wins, and whether the scores agree."""
