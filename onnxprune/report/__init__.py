"""What a run says: entries of the report, what stays and why, gates, and the documents made of it."""
