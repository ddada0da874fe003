"""The ordered checks: bundle offline (core only), table live, store audit."""
