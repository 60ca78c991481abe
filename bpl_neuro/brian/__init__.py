"""What comes from Brian2 and goes there."""

from bpl_neuro.brian.stimuli import from_timed_array

__all__ = ["from_timed_array"]
