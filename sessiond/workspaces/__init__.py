"""Identity files in workspaces: reading, writing, finding and watching them."""
