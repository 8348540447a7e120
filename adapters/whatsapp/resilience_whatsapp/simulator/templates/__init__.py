"""Message templates: their definitions and listing, their life, and whether the values of a message fit them."""
