"""Ranking: training groups, propensity, objective, the LambdaMART ranker, and the two stages as one system."""
