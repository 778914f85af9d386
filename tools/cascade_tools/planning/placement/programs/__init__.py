"""The pieces that the programs for HiGHS are built of."""
