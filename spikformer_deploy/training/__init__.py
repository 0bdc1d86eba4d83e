"""Direct training with surrogate gradients: recipe.py what, data.py on what, supervised.py how."""
