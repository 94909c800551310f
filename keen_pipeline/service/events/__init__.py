"""Events: what comes in, what they hold, what is asked of them."""
