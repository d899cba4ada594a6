"""`secateur compare`: criteria by searches by budgets by seeds, on one network and data set, under one schedule."""
