"""The router: copied byte for byte into the repository, standard library and numpy only.

model.py                  Triton's side: requests in, responses out
router.py  batch.py       the routing: which rows go where, and each request answered once
policy.py                 the one routing function
tiers.py  breaker.py      all fault handling: what stands in for a broken tier, and until when
local.py  adopted.py      tiers that run in this process; tiers that were somebody else's models
head.py                   from logits to label and confidence
gears.py  gearbox.py      which policy serves at this moment
collector.py  counts.py   the batch trigger; what several instances of one router share
plan.py                   the one parser of gear_plan.json
metrics.py                the figures on Triton's own /metrics
shadow.py  bet.py         the sample that the last tier sees, too, and the alarm of drift
"""
