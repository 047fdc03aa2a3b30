"""The stunet command and how it starts processes."""
