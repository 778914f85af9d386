"""The mathematics: numpy and scipy in, values out; no files, no clock, no global random state."""
