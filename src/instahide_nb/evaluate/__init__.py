"""How close an attack came: metrics, the leaderboard, submissions."""
