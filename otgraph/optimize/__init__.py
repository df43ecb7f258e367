"""From a graph, unlabeled inputs and a budget to a plan: sensitivity, allocation, the loop with the
clock."""
