"""Acting in environments: episodes and visits, what algorithms collect, limits on costs, and where time goes."""
