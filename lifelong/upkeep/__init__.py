"""Keeping a run sound: what is let go between timesteps, how much room there is, what is damaged, and mending it."""
