"""Which tier, cut into how many stages, stands how often on which device."""
