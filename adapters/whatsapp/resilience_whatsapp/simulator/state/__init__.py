"""Who exists and how they stand: portfolios, accounts, numbers, tokens, files, and what changes them."""
