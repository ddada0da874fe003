"""The throw-away cluster of `witnz demo`."""
