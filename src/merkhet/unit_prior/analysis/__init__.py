"""What a prior says about every place of a network: a table and pictures."""
