"""What is done with a finished run: they read its folder and never train."""
