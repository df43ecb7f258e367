"""From a graph, unlabelled inputs and a budget to a plan: sensitivity, allocation, and the loop with the clock."""
