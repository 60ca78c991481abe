"""Looking at what was learned: recordings, analysis, comparisons, figures."""
