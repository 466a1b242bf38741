"""Training that begins with the weights of another: rounds and lottery tickets."""
