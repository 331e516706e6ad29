"""What compiles and runs a typed graph, and the worker processes in which that happens."""
