"""What attacks share; the methods are the files beside this folder."""
