"""VSML: Meta Learning Backpropagation And Improving It."""
