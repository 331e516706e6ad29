"""Values, formats and the store: what every step and every runtime builds on."""
