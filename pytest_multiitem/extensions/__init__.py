"""What a project may add: the hooks, and who takes what they give."""
