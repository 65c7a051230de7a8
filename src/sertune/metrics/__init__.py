"""Scores, intervals and summaries of predictions. Needs numpy only."""
