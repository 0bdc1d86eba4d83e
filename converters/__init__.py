"""From files to models and back: a module or a folder for each format; models.py reads any of them."""
