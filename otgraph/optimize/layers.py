"""layers"""


def layer_graph(problem, graph, proposals):
    return problem


def most_layers(graph, budget):
    return 0
