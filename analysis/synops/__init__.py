"""Where should heads look, and what does a price on spikes buy? See ``__main__``."""
