"""Ways to hold an eligibility trace."""
