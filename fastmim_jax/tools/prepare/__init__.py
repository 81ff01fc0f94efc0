"""`fastmim prepare`: write a data set once as ArrayRecord shards of shrunk images."""
