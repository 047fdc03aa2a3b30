"""What we do in a turn: factories that a worker in our environment opens."""
