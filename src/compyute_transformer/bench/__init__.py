"""THE RACES, and the ground they are run on.

machine  what this machine is: processor, BLAS, packages, environment, GPU
doctor   what of it holds speed back, and what to do
"""
