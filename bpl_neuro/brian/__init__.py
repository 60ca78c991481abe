"""What comes from Brian2 and goes there."""
