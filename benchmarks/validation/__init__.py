"""The simulator held against the real server: which loads, and when both agree."""
