"""The command line: each verb loads, calls, saves and prints."""
