"""From a graph, unlabelled inputs and a budget to a plan: sensitivity, allocation, the loop with the
clock."""
