"""The router that runs inside Triton.

`build-repo` copies the files of this folder byte for byte into the router's version folder, so they
import the standard library, numpy and each other, and run on Python 3.10 to 3.13.
"""
