"""What defenses share; the methods are the files beside this folder."""
