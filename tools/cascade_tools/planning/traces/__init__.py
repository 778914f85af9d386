"""When requests come: traces of many formats and generators, all as arrival times.

Arrival times are seconds from the beginning of the trace, float64 [requests], ascending. Whatever is drawn is
drawn from a seed.
"""
